"""PLS and HSIC of small matrices: by hand, against independent computations, and their invariances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.pruning.pls import DistilledVip, Hsic, Vip, latent_space
from iqa_armor.pruning.samples import pooled_inputs, score_effects

vip, distilled_vip, hsic = Vip().score, DistilledVip().score, Hsic().score
Score = Callable[[Tensor, Tensor], Tensor]
SCORES = pytest.mark.parametrize("score", [vip, distilled_vip, hsic])


def samples(count: int = 60, channels: int = 7, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return noise (n, C) whose first channel follows the labels, whose second follows their square, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randn(count, generator=generator, dtype=torch.float64)
    activations = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    activations[:, 0] = labels + 0.3 * activations[:, 0]
    activations[:, 1] = labels**2 + 0.3 * activations[:, 1]
    return activations, labels


def test_vip_by_hand() -> None:
    # Orthogonal channels of equal length; the labels are 4 and 2 of them: w = (2, 1)/√5, VIP = √2 w, and R² = 1.
    activations = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    labels = activations @ torch.tensor([4.0, 2.0])
    expected = torch.tensor([(8 / 5) ** 0.5, (2 / 5) ** 0.5], dtype=torch.float64)
    torch.testing.assert_close(vip(activations, labels), expected)
    torch.testing.assert_close(distilled_vip(activations, labels), expected)


def test_one_component_is_the_correlation_with_each_channel() -> None:
    activations, labels = samples()
    correlations = np.array([np.corrcoef(column, labels)[0, 1] for column in activations.T.numpy()])
    expected = np.abs(correlations) / np.sqrt(np.mean(correlations**2))
    np.testing.assert_allclose(Vip(components=1).score(activations, labels).numpy(), expected)


def test_as_many_components_as_channels_explain_what_least_squares_does() -> None:
    activations, labels = samples()
    design = np.column_stack([np.ones(len(labels)), activations.numpy()])
    residual = labels.numpy() - design @ np.linalg.lstsq(design, labels.numpy(), rcond=None)[0]
    share = 1 - residual.var() / labels.numpy().var()
    assert float(latent_space(activations, labels, components=7).explained.sum()) == pytest.approx(share)
    assert 0 < float(latent_space(activations, labels).explained.sum()) < share


def test_mean_square_of_vip_is_one_and_of_the_distilled_r_squared() -> None:
    activations, labels = samples(count=30, channels=50)
    explained = float(latent_space(activations, labels).explained.sum())
    assert float(vip(activations, labels).square().mean()) == pytest.approx(1)
    assert float(distilled_vip(activations, labels).square().mean()) == pytest.approx(explained)
    assert explained < 1


def test_hsic_is_the_trace_of_its_definition() -> None:
    activations, labels = samples(count=20, channels=3)

    def kernel(values: np.ndarray) -> np.ndarray:
        distances = np.abs(values[:, None] - values[None])
        ordered = np.sort(distances[np.triu_indices(len(values), 1)])
        return np.exp(-(distances**2) / (2 * ordered[(len(ordered) - 1) // 2] ** 2))

    center = np.eye(20) - 1 / 20
    expected = [
        np.trace(kernel(column) @ center @ kernel(labels.numpy()) @ center) / 19**2 for column in activations.T.numpy()
    ]
    np.testing.assert_allclose(hsic(activations, labels).numpy(), expected)


def test_hsic_sees_what_is_not_linear() -> None:
    activations, labels = samples(count=200)
    assert hsic(activations, labels).argsort(descending=True)[:2].tolist() == [0, 1]
    assert vip(activations, labels).argmax() == 0


@SCORES
def test_constant_channel_is_worth_nothing(score: Score) -> None:
    activations, labels = samples()
    activations[:, 3] = 0.1
    activations[:, 4] = 0.1 + 1e-9 * labels  # rounding, not information
    activations[:, 5] = 0
    found = score(activations, labels)
    assert found[3:6].tolist() == [0, 0, 0]
    assert (found[:3] > 0).all()


@SCORES
def test_units_and_direction_of_labels_and_channels_do_not_matter(score: Score) -> None:
    activations, labels = samples()
    before = score(activations, labels)
    torch.testing.assert_close(score(activations, 100 - 20 * labels), before)
    torch.testing.assert_close(score(activations * torch.linspace(-3, 9, 7, dtype=torch.float64), labels), before)


@SCORES
def test_order_of_samples_and_channels_does_not_matter(score: Score) -> None:
    activations, labels = samples()
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.randperm(60, generator=generator), torch.randperm(7, generator=generator)
    torch.testing.assert_close(score(activations[rows][:, columns], labels[rows]), score(activations, labels)[columns])


@SCORES
def test_channel_that_a_relu_silences_on_most_images_is_measured(score: Score) -> None:
    activations, labels = samples(count=200)
    activations[:, 2] = (labels - 1).relu()  # 0 on most, so the median distance is 0
    assert float(score(activations, labels)[2]) > float(score(activations, labels)[3:].max())


@SCORES
@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        (torch.rand(5, 2), torch.rand(4), r"must pair up, got \(5, 2\) and \(4,\)"),
        (torch.rand(2, 2), torch.rand(2), "at least 3 samples are needed, got 2"),
        (torch.full((5, 2), torch.nan), torch.rand(5), "finite"),
        (torch.rand(5, 2), torch.full((5,), 3.0), "the labels must differ, all are 3.0"),
    ],
)
def test_samples_that_say_nothing_are_refused(score: Score, activations: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(activations, labels)


def test_no_components_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Vip needs components in \[1, inf\), got 0"):
        Vip(components=0)


def test_nothing_that_goes_with_the_labels_is_worth_nothing() -> None:
    labels = torch.tensor([1.0, -1.0, 1.0, -1.0])
    activations = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert vip(activations, labels).tolist() == [0]
    assert distilled_vip(activations, labels).tolist() == [0]


class Crops(nn.Module):
    """Two crops of each image as rows of one batch, then tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 4, 1)
        self.tokens = nn.Linear(4, 5)
        self.score = nn.Linear(5, 1)
        self.unused = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        crops = torch.stack([x[..., :4], x[..., 4:]], 1).flatten(0, 1)
        tokens = self.tokens(self.maps(crops).flatten(2).transpose(1, 2))
        return self.score(tokens.mean(1).unflatten(0, (-1, 2)).mean(1))


def test_layers_read_means_over_places_and_crops_of_an_image() -> None:
    torch.manual_seed(0)
    network, images, labels = Crops().train(), torch.rand(5, 3, 6, 8), torch.rand(5)
    inputs = pooled_inputs(network, [(images[:3], labels[:3]), (images[3:], labels[3:])])
    assert {name: tuple(pooled.shape) for name, pooled in inputs.pooled.items()} == {
        "maps": (5, 3),
        "tokens": (5, 4),
        "score": (5, 5),
    }
    torch.testing.assert_close(inputs.pooled["maps"].float(), images.mean((2, 3)))
    torch.testing.assert_close(inputs.labels.float(), labels)
    assert network.training
    assert not network.maps._forward_pre_hooks


def test_layers_that_mix_images_are_refused() -> None:
    network = nn.Sequential(nn.Flatten(0), nn.Linear(3 * 4, 1))
    with pytest.raises(SurgeryError, match=r"layer '2' reads 1 rows for 4 images.*--criterion l1"):
        pooled_inputs(
            nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1)), network[1]), [(torch.rand(4, 3), torch.rand(4))]
        )


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="needs labelled images"):
        pooled_inputs(nn.Linear(2, 1), [])


def test_effects_are_of_channels_that_images_have_a_say_in() -> None:
    class Placed(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return (self[0](images).mean((2, 3)) * self[1](torch.ones(1, 2))).sum(1)

    network = Placed(nn.Conv2d(3, 4, 3), nn.Linear(2, 4))
    effects = score_effects(network, torch.rand(2, 3, 8, 8))
    assert effects.keys() == {"0"}
    assert effects["0"].shape == (2, 3)
