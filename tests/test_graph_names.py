"""Layers and weights are called as their authors like."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from iqa_armor import Preprocessing, QualityModel, load_model, save_model
from iqa_armor.errors import SurgeryError
from iqa_armor.graph.trace import trace


class Oddly(nn.Module):
    """A network whose first layer, or a scale behind it, has a name that a graph module cannot have as it is."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__()
        self.called, self.place = name, place
        first = nn.Conv2d(3, 8, 3, stride=2)
        if place == "scale":
            self.first = first
            self.register_parameter(name, nn.Parameter(torch.full((1, 8, 1, 1), 1.5)))
        else:
            self.parts = nn.Module()
            (self.parts if place == "within" else self).add_module(name, first)
        self.second, self.head = nn.Conv2d(8, 8, 3, stride=2), nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        odd = getattr(self.parts if self.place == "within" else self, self.called)
        maps = self.first(images) * odd if self.place == "scale" else odd(images)
        return self.head(self.second(maps.relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("place", ["within", "layer", "scale"])
@pytest.mark.parametrize(
    "name",
    [
        *("-1", "1x1", "conv 3", "a/b", "lambda", "in", "None", "self", "Self", "graph", "_graph", "code", "meta", "β"),
        *("__x__", "recompile", "print_readable", 'a"b', "a\nb"),
    ],
)
def test_layers_and_weights_may_have_any_name(name: str, place: str, tmp_path: Path) -> None:
    model = QualityModel(Oddly(name, place), Preprocessing(size=(32, 40)), name="odd")
    images = torch.rand(2, 3, 32, 40)
    save_model(model, tmp_path / "odd.safetensors", recipe={}, provenance={})
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "odd.safetensors")(images), model(images))


def test_names_that_become_alike_are_refused() -> None:
    network = Oddly("lambda", "layer")
    network.named_lambda = network.second
    network.second = nn.Identity()
    network.forward = lambda images: network.head(  # type: ignore[method-assign, assignment]
        network.named_lambda(getattr(network, "lambda")(images)).mean((2, 3))
    )
    with pytest.raises(SurgeryError, match="both be called named_lambda; rename one"):
        trace(network, torch.rand(1, 3, 32, 40))
