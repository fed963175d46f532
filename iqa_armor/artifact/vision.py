"""What a stored graph may hold of torchvision; see `artifact.signatures.Table`."""

from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth
from torchvision.ops.misc import Permute

from iqa_armor.artifact.checks import channels, choice, dimension, epsilon, sequence, share
from iqa_armor.artifact.functions import StoredFunction, functions_of
from iqa_armor.artifact.layers import LAYER_NORM
from iqa_armor.artifact.signatures import Derived, StoredLayer

LAYERS: dict[str, StoredLayer] = {
    "torchvision.models.convnext.LayerNorm2d": StoredLayer(LayerNorm2d, LAYER_NORM, ("x",)),
    "torchvision.ops.FrozenBatchNorm2d": StoredLayer(
        FrozenBatchNorm2d,
        {"num_features": Derived(channels, lambda module: len(module.weight)), "eps": epsilon},
        ("x",),
    ),
    "torchvision.ops.StochasticDepth": StoredLayer(StochasticDepth, {"p": share, "mode": choice("batch", "row")}),
    "torchvision.ops.Permute": StoredLayer(Permute, {"dims": sequence(dimension, 1, 6)}, ("x",)),
}
FUNCTIONS: dict[str, StoredFunction] = functions_of("torchvision.ops")
