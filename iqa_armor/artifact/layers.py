"""The layers that a stored graph may hold: how each is described, checked, built anew and called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from iqa_armor.artifact import checks
from iqa_armor.artifact.checks import MAX_KERNEL, MAX_PADDING, FormatError, choice, either, integer, optional, sequence
from iqa_armor.artifact.functions import Signature, Table
from iqa_armor.errors import NETWORK_FAILURES
from iqa_armor.models.sqish import Sqish
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock, TokenBlock
from iqa_armor.randomness import Undrawn

SOURCE = "source"  # stands for the class of a module that is taken from the user's own network
INPUT = Signature("input")


Fields = Mapping[str, checks.ArgumentCheck]


def _is_given(value: object) -> bool:
    return value is True or isinstance(value, Tensor)


# How the constructor arguments are read from a layer that not every class keeps under their names.
READ: Mapping[str, Callable[[Any], object]] = {
    "bias": lambda layer: _is_given(layer.in_proj_bias if hasattr(layer, "in_proj_bias") else layer.bias),
    "add_bias_kv": lambda layer: layer.bias_k is not None,
    "p": lambda layer: layer.norm if isinstance(layer, nn.PairwiseDistance) else layer.p,
    "num_features": lambda layer: layer.num_features if hasattr(layer, "num_features") else len(layer.weight),
}


@dataclass(frozen=True)
class StoredLayer:
    """A class of layers that may be stored."""

    kind: type[nn.Module]  # the class itself; subclasses are not accepted in its place
    fields: Fields  # checks of its constructor arguments by name
    signature: Signature = INPUT  # what its forward accepts
    # For classes whose construction costs memory or time: by relative name, the size for constructor arguments of each
    # stored tensor that must be in the file before it is built.
    tensors: Mapping[str, Callable[[dict[str, Any]], tuple[int, ...]]] = field(default_factory=dict)

    def describe(self, module: nn.Module) -> dict[str, object]:
        """Return the constructor arguments of an existing layer as JSON values."""
        read = {name: READ.get(name, attrgetter(name))(module) for name in self.fields}
        return {name: list(value) if isinstance(value, tuple | list) else value for name, value in read.items()}

    def arguments(self, stored: object) -> dict[str, Any]:
        """Return constructor arguments, each checked on its own."""
        return checks.checked_fields(stored, self.fields, "its constructor arguments")

    def build(self, arguments: dict[str, Any]) -> nn.Module:
        """Return a new layer on the meta device, or refuse arguments that do not go together."""
        try:
            with torch.device("meta"), Undrawn():
                return self.kind(**arguments)
        except NETWORK_FAILURES as error:
            raise FormatError(f"it cannot be built: {checks.shown(str(error))}") from error


Entries = dict[str, StoredLayer]
_SIDE, _LENGTH, _WIDE = integer(1, 2**14), integer(1, MAX_KERNEL), integer(1, 2**22)
_FACTOR = checks.number(1 / 64, 64)


def _usual(axes: int) -> Fields:
    """Return what an argument of a name is in layers of torch.nn on so many axes, where its entry says no other."""
    margin = checks.per_axis(axes, 0, MAX_PADDING)
    rows = (
        ("in_channels out_channels num_channels groups num_groups num_features num_parameters", checks.channels),
        ("in1_features in2_features out_features input_size hidden_size", checks.channels),
        ("embedding_dim embed_dim num_heads kdim vdim", checks.channels),
        ("in_features num_embeddings", _WIDE),
        ("padding_idx", optional(integer(-(2**22), 2**22))),
        ("upscale_factor downscale_factor", integer(1, 64)),
        ("affine track_running_stats elementwise_affine add_zero_attn batch_first bidirectional", checks.flag),
        ("bias add_bias_kv inplace ceil_mode count_include_pad return_indices keepdim", checks.flag),
        ("align_corners recompute_scale_factor", optional(checks.flag)),
        ("dim start_dim end_dim", checks.dimension),
        ("alpha beta k min_val max_val negative_slope threshold value", checks.any_number),
        ("p lower upper dropout", checks.share),
        ("momentum", optional(checks.share)),
        ("eps", checks.epsilon),
        ("normalized_shape", sequence(checks.channels, 1, 4)),
        ("max_norm", optional(checks.any_number)),
        ("norm_type", checks.number(0.1, 64)),
        ("num_layers", integer(1, 16)),
        ("nonlinearity", choice("tanh", "relu")),
        ("kernel_size stride dilation", checks.per_axis(axes, 1, MAX_KERNEL)),
        ("padding output_padding", margin),
        ("named", either(choice("same", "valid"), margin)),
        ("edges", sequence(integer(-MAX_PADDING, MAX_PADDING), 2 * axes)),
        ("padding_mode", choice("zeros", "reflect", "replicate", "circular")),
        ("output_size", either(optional(_LENGTH), sequence(optional(_LENGTH), axes))),
        ("mode", choice("nearest", "linear", "bilinear", "bicubic", "trilinear")),
        ("size", optional(either(_SIDE, sequence(_SIDE, 1, 3)))),
        ("scale_factor", optional(either(_FACTOR, sequence(_FACTOR, 1, 3)))),
    )
    return {name: check for names, check in rows for name in names.split()}


USUAL = {1: _usual(1), 2: _usual(2)}


def _layers(kinds: str, names: str = "", call: str = "input", **own: checks.ArgumentCheck) -> Entries:
    """Return the entries of layers of torch.nn with the same arguments; NAME=CHECK takes the check of another name."""
    entries = {}
    for kind in kinds.split():
        known = {**USUAL[1 if kind.endswith("1d") else 2], **own}
        fields = {name.partition("=")[0]: known[name.rpartition("=")[2]] for name in names.split()}
        entries[f"torch.nn.{kind}"] = StoredLayer(getattr(nn, kind), fields, Signature(call))
    return entries


CONVOLUTION = "in_channels out_channels groups kernel_size stride dilation padding bias padding_mode"
AVERAGE = "kernel_size stride padding ceil_mode count_include_pad"
NORM = "num_features eps momentum affine track_running_stats"
CELL = "input_size hidden_size bias"
RECURRENT = f"{CELL} batch_first bidirectional num_layers dropout"
# Naming a backend in a file imports nothing but what is installed for that.
_backend = checks.must_be(
    f"one of {BACKENDS.summary()}", lambda value: isinstance(value, str) and BACKENDS.knows(value)
)
_even = integer(2, checks.MAX_CHANNELS)
ROBUST: Fields = {"channels": _even, "backend": _backend, "pool": choice("square", "none")}
TOKENS: Fields = {"channels": _even, "size": sequence(_SIDE, 2), "extra": integer(0, 2**14), "backend": _backend}


def _reduction(given: dict[str, Any]) -> tuple[int, ...]:
    return given["channels"] // 2, given["channels"], 1, 1


_ENTRIES: Entries = {
    **_layers("Conv1d Conv2d", CONVOLUTION.replace("padding ", "padding=named ")),
    **_layers("ConvTranspose1d ConvTranspose2d", f"{CONVOLUTION} output_padding", padding_mode=choice("zeros")),
    **_layers("BatchNorm1d BatchNorm2d InstanceNorm1d InstanceNorm2d", NORM),
    **_layers("LayerNorm", "normalized_shape eps elementwise_affine bias"),
    **_layers("GroupNorm", "num_groups num_channels eps affine"),
    **_layers("RMSNorm", "normalized_shape eps elementwise_affine", "x", eps=optional(checks.epsilon)),
    **_layers("LocalResponseNorm", "size alpha beta k", size=_LENGTH),
    **_layers("Linear", "in_features out_features bias"),
    **_layers("Bilinear", "in1_features in2_features out_features bias", "input1 input2?"),
    **_layers("Embedding", "num_embeddings embedding_dim padding_idx max_norm"),
    **_layers(
        "MultiheadAttention",
        "embed_dim num_heads kdim vdim add_zero_attn batch_first dropout bias add_bias_kv",
        "query key? value? key_padding_mask? need_weights? attn_mask? average_attn_weights? is_causal?",
    ),
    **_layers("GRU", RECURRENT, "input hx?"),
    **_layers("LSTM", f"{RECURRENT} proj_size", "input hx?", proj_size=integer(0, checks.MAX_CHANNELS)),
    **_layers("RNN", f"{RECURRENT} nonlinearity", "input hx?"),
    **_layers("GRUCell LSTMCell", CELL, "input hx?"),
    **_layers("RNNCell", f"{CELL} nonlinearity", "input hx?"),
    **_layers("MaxPool1d MaxPool2d", "kernel_size stride padding dilation return_indices ceil_mode"),
    **_layers("AvgPool1d", AVERAGE),
    **_layers("AvgPool2d", f"{AVERAGE} divisor_override", divisor_override=optional(integer(1, 2**20))),
    **_layers("LPPool2d", "norm_type kernel_size stride ceil_mode", stride=optional(checks.per_axis(2, 1, MAX_KERNEL))),
    **_layers("AdaptiveAvgPool1d AdaptiveAvgPool2d", "output_size"),
    **_layers("AdaptiveMaxPool1d AdaptiveMaxPool2d", "output_size return_indices"),
    **_layers("Sigmoid Tanh LogSigmoid Softsign Tanhshrink Softmax2d Identity"),
    **_layers("ReLU ReLU6 SELU SiLU Mish Hardswish Hardsigmoid", "inplace"),
    **_layers("Softmax LogSoftmax Softmin", "dim", dim=optional(checks.dimension)),
    **_layers("ELU CELU", "alpha inplace"),
    **_layers("Softshrink Hardshrink", "lambd", lambd=checks.number(0)),
    **_layers("GELU", "approximate", approximate=choice("none", "tanh")),
    **_layers("GLU", "dim"),
    **_layers("Hardtanh", "min_val max_val inplace"),
    **_layers("LeakyReLU", "negative_slope inplace"),
    **_layers("PReLU", "num_parameters"),
    **_layers("RReLU", "lower upper inplace"),
    **_layers("Softplus", "beta threshold"),
    **_layers("Threshold", "threshold value inplace"),
    "iqa_armor.models.sqish.Sqish": StoredLayer(Sqish, dict.fromkeys(("alpha", "beta", "gamma"), checks.any_number)),
    **_layers("Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout", "p inplace"),
    **_layers("ReflectionPad1d ReplicationPad1d ZeroPad1d CircularPad1d", "padding=edges"),
    **_layers("ReflectionPad2d ReplicationPad2d ZeroPad2d CircularPad2d", "padding=edges"),
    **_layers("ConstantPad1d ConstantPad2d", "padding=edges value"),
    **_layers("ChannelShuffle", "groups"),
    **_layers("CosineSimilarity", "dim eps", "x1 x2?"),
    **_layers("PairwiseDistance", "p eps keepdim", "x1 x2?", p=checks.any_number),
    **_layers("Flatten", "start_dim end_dim"),
    **_layers("Fold", "output_size kernel_size dilation stride padding", output_size=checks.per_axis(2, 1, 2**14)),
    **_layers("Unfold", "kernel_size dilation stride padding"),
    **_layers("PixelShuffle", "upscale_factor"),
    **_layers("PixelUnshuffle", "downscale_factor"),
    **_layers("Unflatten", "dim unflattened_size", unflattened_size=sequence(integer(-1, 2**22), 1, 6)),
    **_layers("Upsample", "size scale_factor mode align_corners recompute_scale_factor"),
    **_layers("UpsamplingBilinear2d UpsamplingNearest2d", "size scale_factor"),
    "iqa_armor.ortho.RobustBlock": StoredLayer(
        RobustBlock, ROBUST, Signature("features"), {"reduction.weight": _reduction}
    ),
    "iqa_armor.ortho.TokenBlock": StoredLayer(
        TokenBlock, TOKENS, Signature("tokens"), {"block.reduction.weight": _reduction}
    ),
}


def _of_vision() -> Entries:
    """Return the entries of torchvision's own layers."""
    from torchvision.models.convnext import LayerNorm2d
    from torchvision.ops import FrozenBatchNorm2d, StochasticDepth
    from torchvision.ops.misc import Permute

    norm, on_x = _ENTRIES["torch.nn.LayerNorm"].fields, Signature("x")
    frozen: Fields = {"num_features": checks.channels, "eps": checks.epsilon}
    depth = {"p": checks.share, "mode": choice("batch", "row")}
    return {
        "torchvision.models.convnext.LayerNorm2d": StoredLayer(LayerNorm2d, norm, on_x),
        "torchvision.ops.FrozenBatchNorm2d": StoredLayer(FrozenBatchNorm2d, frozen, on_x),
        "torchvision.ops.StochasticDepth": StoredLayer(StochasticDepth, depth),
        "torchvision.ops.Permute": StoredLayer(Permute, {"dims": sequence(checks.dimension, 1, 6)}, on_x),
    }


LAYERS: Table[StoredLayer] = Table(_ENTRIES, _of_vision, lambda layer: layer.kind)
