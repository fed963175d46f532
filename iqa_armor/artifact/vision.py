"""What a stored graph may hold of torchvision; see `artifact.table`."""

from __future__ import annotations

from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth, stochastic_depth
from torchvision.ops.misc import Permute

from iqa_armor.artifact.calls import Call
from iqa_armor.artifact.checks import channels, choice, dimension, epsilon, sequence, share
from iqa_armor.artifact.layers import normalizing
from iqa_armor.artifact.leaf import Field, Leaf

LAYERS: dict[str, Leaf] = {
    "torchvision.models.convnext.LayerNorm2d": normalizing(LayerNorm2d, "x"),
    "torchvision.ops.FrozenBatchNorm2d": Leaf(
        FrozenBatchNorm2d,
        {"num_features": Field(channels, lambda module: len(module.weight)), "eps": Field(epsilon)},
        ("x",),
    ),
    "torchvision.ops.StochasticDepth": Leaf(
        StochasticDepth, {"p": Field(share), "mode": Field(choice("batch", "row"))}
    ),
    "torchvision.ops.Permute": Leaf(Permute, {"dims": Field(sequence(dimension, 1, 6))}, ("x",)),
}
FUNCTIONS: dict[str, Call] = {
    "torchvision.ops.stochastic_depth": Call(stochastic_depth, "input p mode training", ("batch", "row"), least=3),
}
