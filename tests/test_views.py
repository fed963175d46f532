"""Scores averaged over moved and mirrored views of each image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import memory_dataset, small_network
from torch import Tensor, fx, nn

from iqa_armor import load_model
from iqa_armor.errors import RecipeError, SurgeryError
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.harden import harden
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.edits import MOVES, average_views, moved_at_random


def network(*, flat: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2), nn.Flatten(), nn.LazyLinear(1)]
    made = nn.Sequential(*layers, nn.Flatten(0)) if flat else nn.Sequential(*layers)
    made(torch.zeros(2, 3, 40, 48))
    return made.eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 40, 48, generator=torch.Generator().manual_seed(1))


def by_hand(net: nn.Module, x: Tensor, views: int) -> Tensor:
    """Return the mean over views that are cut out pixel by pixel."""
    found = []
    for move in MOVES[views]:
        rows, columns = ([abs(i - move) for i in range(length)] for length in x.shape[-2:])
        moved = x[:, :, rows][..., columns]
        found += [net(moved), net(moved.flip(-1))]
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("views", [2, 4, 8])
@pytest.mark.parametrize("flat", [False, True])
def test_scores_are_the_mean_over_views_made_by_hand(views: int, flat: bool) -> None:
    net = network(flat=flat)
    traced = trace(net, images(1))
    average_views(traced, views)
    with torch.no_grad():
        expected = by_hand(net, images(), views)
        assert traced(images()).shape == expected.shape
        torch.testing.assert_close(traced(images()), expected)
        torch.testing.assert_close(traced(images(1)), expected[:1])


def test_one_view_changes_nothing() -> None:
    traced = trace(network(), images(1))
    before = str(traced.graph)
    average_views(traced, 1)
    assert str(traced.graph) == before


@pytest.mark.parametrize("views", [2, 8])
def test_mirror_images_have_one_score(views: int) -> None:
    traced = trace(network(), images(1))
    average_views(traced, views)
    if views == 2:
        torch.testing.assert_close(traced(images()), traced(images().flip(-1)))
    else:
        assert not torch.allclose(traced(images()), traced(images().roll(8, -1)), atol=1e-7)


def test_gradients_pass_through_every_view() -> None:
    """An attack sees the mean, so nothing of it is hidden from gradients."""
    net = network()
    traced = trace(net, images(1))
    average_views(traced, 8)
    x = images().requires_grad_()
    (seen,) = torch.autograd.grad(traced(x).sum(), x)
    (expected,) = torch.autograd.grad(by_hand(net, x, 8).sum(), x)
    torch.testing.assert_close(seen, expected)


def test_networks_of_two_images_are_refused() -> None:
    graph = fx.Graph()
    one, two = graph.placeholder("one"), graph.placeholder("two")
    graph.output(graph.call_function(torch.add, (one, two)))
    with pytest.raises(SurgeryError, match="takes 2; pass --views 1"):
        average_views(fx.GraphModule(nn.Module(), graph), 2)


def test_training_moves_a_batch_as_the_views_are() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [moved_at_random(images(1), 8, generator=generator) for _ in range(40)]
    x = images(1)
    allowed = [x[:, :, [abs(i - m) for i in range(40)]][..., [abs(i - m) for i in range(48)]] for m in MOVES[8]]
    assert all(any(torch.equal(one, other) for other in allowed) for one in drawn)
    assert all(any(torch.equal(one, other) for one in drawn) for other in allowed)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"epochs": 1}, {"epochs": 1, "frontier": 2, "ema": 0.5}])
def test_hardened_models_keep_their_views_in_the_file(make_model, tmp_path: Path, settings: dict[str, object]) -> None:
    dataset = memory_dataset(training=24)
    result = harden(make_model(), dataset, Recipe.read({"position": "none", "prune": 0, "views": 4, **settings}))
    assert all(check["difference"] <= check["tolerance"] for check in result.provenance["checks"])
    result.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), result.model(x))
    assert sum(node.target is torch.flip for node in loaded.network.graph.nodes) == 2
    for other in result.others.values():
        assert sum(node.target is torch.flip for node in other.network.graph.nodes) == 2


@pytest.mark.parametrize("epochs", [0, 1])
def test_images_that_are_too_small_to_be_moved_are_refused(epochs: int) -> None:
    model = QualityModel(small_network().eval(), Preprocessing(size=(16, 32)), name="small")
    with pytest.raises(SurgeryError, match="up to 16 pixels, and these are 16x32; pass --views 2"):
        harden(model, memory_dataset(training=24), Recipe(position="none", prune=0, views=4, epochs=epochs))


@pytest.mark.parametrize("views", [0, 3, 16, "many"])
def test_other_numbers_of_views_are_refused(views: object) -> None:
    with pytest.raises(RecipeError, match="views"):
        Recipe.read({"views": views})
