"""The table of stored layers."""

from torch import nn

from iqa_armor.artifact.checks import (
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_PADDING,
    ArgumentCheck,
    any_number,
    channels,
    choice,
    dimension,
    either,
    epsilon,
    flag,
    integer,
    must_be,
    number,
    optional,
    per_axis,
    sequence,
    share,
)
from iqa_armor.artifact.signatures import Derived, Fields, StoredLayer, Table, layers_of
from iqa_armor.models.sqish import Sqish
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock, TokenBlock

# Naming a backend in a file imports nothing but what is installed for that.
_backend = must_be(f"one of {BACKENDS.summary()}", lambda value: isinstance(value, str) and BACKENDS.knows(value))
BLOCKS: dict[str, StoredLayer] = {
    "iqa_armor.ortho.RobustBlock": StoredLayer(
        RobustBlock,
        {"channels": integer(2, MAX_CHANNELS), "backend": _backend, "pool": choice("square", "none")},
        ("features",),
        lambda given: {"reduction.weight": (given["channels"] // 2, given["channels"], 1, 1)},
    ),
    "iqa_armor.ortho.TokenBlock": StoredLayer(
        TokenBlock,
        {
            "channels": integer(2, MAX_CHANNELS),
            "size": sequence(integer(1, 2**14), 2),
            "extra": integer(0, 2**14),
            "backend": _backend,
        },
        ("tokens",),
        lambda given: {"block.reduction.weight": (given["channels"] // 2, given["channels"], 1, 1)},
    ),
}


MAX_SCALE = 64

has_bias = Derived(flag, lambda module: module.bias is not None)


def _each(names: str, check: ArgumentCheck) -> Fields:
    return dict.fromkeys(names.split(), check)


def _convolution(axes: int) -> Fields:
    return {
        **_each("in_channels out_channels groups", channels),
        **_each("kernel_size stride dilation", per_axis(axes, 1, MAX_KERNEL)),
        "padding": either(choice("same", "valid"), per_axis(axes, 0, MAX_PADDING)),
        "bias": has_bias,
        "padding_mode": choice("zeros", "reflect", "replicate", "circular"),
    }


def _transposed(axes: int) -> Fields:
    margin = per_axis(axes, 0, MAX_PADDING)
    return {**_convolution(axes), "padding": margin, "output_padding": margin, "padding_mode": choice("zeros")}


def _window(axes: int) -> Fields:
    length = per_axis(axes, 1, MAX_KERNEL)
    return {"kernel_size": length, "stride": length, "padding": per_axis(axes, 0, MAX_PADDING)}


def _average(axes: int) -> Fields:
    return {**_window(axes), "ceil_mode": flag, "count_include_pad": flag}


def _maximum(axes: int) -> Fields:
    return {**_window(axes), "dilation": per_axis(axes, 1, MAX_KERNEL), "return_indices": flag, "ceil_mode": flag}


def _adaptive(axes: int) -> Fields:
    size = optional(integer(1, MAX_KERNEL))
    return {"output_size": either(size, sequence(size, axes))}


def _padding(axes: int) -> Fields:
    return {"padding": sequence(integer(-MAX_PADDING, MAX_PADDING), 2 * axes)}


RUNNING_NORM: Fields = {
    "num_features": channels,
    "eps": epsilon,
    "momentum": optional(share),
    **_each("affine track_running_stats", flag),
}
LAYER_NORM: Fields = {
    "normalized_shape": sequence(channels, 1, 4),
    "eps": epsilon,
    "elementwise_affine": flag,
    "bias": has_bias,
}
RMS_NORM: Fields = {"normalized_shape": sequence(channels, 1, 4), "eps": optional(epsilon), "elementwise_affine": flag}
EMBEDDING: Fields = {
    "num_embeddings": integer(1, 2**22),
    "embedding_dim": channels,
    "padding_idx": optional(integer(-(2**22), 2**22)),
    "max_norm": optional(any_number),
}
ATTENTION: Fields = {
    **_each("embed_dim num_heads kdim vdim", channels),
    **_each("add_zero_attn batch_first", flag),
    "dropout": share,
    "bias": Derived(flag, lambda module: module.in_proj_bias is not None),
    "add_bias_kv": Derived(flag, lambda module: module.bias_k is not None),
}
RECURRENT: Fields = {
    **_each("input_size hidden_size", channels),
    **_each("bias batch_first bidirectional", flag),
    "num_layers": integer(1, 16),
    "dropout": share,
}
CELL: Fields = {**_each("input_size hidden_size", channels), "bias": flag}
# After the query; each may be left out where a graph leaves it out.
ATTENDED = "key value key_padding_mask need_weights attn_mask average_attn_weights is_causal"
SIDES = per_axis(2, 1, MAX_KERNEL)
POWER_POOL: Fields = {"norm_type": number(0.1, 64), "kernel_size": SIDES, "stride": optional(SIDES), "ceil_mode": flag}
INPLACE = {"inplace": flag}
SIDE, SCALE = integer(1, 2**14), number(1 / MAX_SCALE, MAX_SCALE)
UPSAMPLED: Fields = {
    "size": optional(either(SIDE, sequence(SIDE, 1, 3))),
    "scale_factor": optional(either(SCALE, sequence(SCALE, 1, 3))),
}
MODES: Fields = {
    "mode": choice("nearest", "linear", "bilinear", "bicubic", "trilinear"),
    **_each("align_corners recompute_scale_factor", optional(flag)),
}
PATCHES: Fields = {**_each("kernel_size dilation stride", SIDES), "padding": per_axis(2, 0, MAX_PADDING)}

_ENTRIES: dict[str, StoredLayer] = {
    **layers_of(_convolution(1), nn.Conv1d),
    **layers_of(_convolution(2), nn.Conv2d),
    **layers_of(_transposed(1), nn.ConvTranspose1d),
    **layers_of(_transposed(2), nn.ConvTranspose2d),
    **layers_of(RUNNING_NORM, nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm1d, nn.InstanceNorm2d),
    **layers_of(LAYER_NORM, nn.LayerNorm),
    **layers_of({"num_groups": channels, "num_channels": channels, "eps": epsilon, "affine": flag}, nn.GroupNorm),
    **layers_of(RMS_NORM, nn.RMSNorm, keywords=("x",)),
    **layers_of(
        {"size": integer(1, MAX_KERNEL), "alpha": any_number, "beta": any_number, "k": any_number},
        nn.LocalResponseNorm,
    ),
    **layers_of({"in_features": integer(1, 2**22), "out_features": channels, "bias": has_bias}, nn.Linear),
    **layers_of(
        {"in1_features": channels, "in2_features": channels, "out_features": channels, "bias": has_bias},
        nn.Bilinear,
        keywords=("input1", "input2"),
    ),
    **layers_of(EMBEDDING, nn.Embedding),
    **layers_of(ATTENTION, nn.MultiheadAttention, keywords=("query", *ATTENDED.split())),
    **layers_of(RECURRENT, nn.GRU, keywords=("input", "hx")),
    **layers_of({**RECURRENT, "proj_size": integer(0, MAX_CHANNELS)}, nn.LSTM, keywords=("input", "hx")),
    **layers_of({**RECURRENT, "nonlinearity": choice("tanh", "relu")}, nn.RNN, keywords=("input", "hx")),
    **layers_of(CELL, nn.GRUCell, nn.LSTMCell, keywords=("input", "hx")),
    **layers_of({**CELL, "nonlinearity": choice("tanh", "relu")}, nn.RNNCell, keywords=("input", "hx")),
    **layers_of(_maximum(1), nn.MaxPool1d),
    **layers_of(_maximum(2), nn.MaxPool2d),
    **layers_of(_average(1), nn.AvgPool1d),
    **layers_of({**_average(2), "divisor_override": optional(integer(1, 2**20))}, nn.AvgPool2d),
    **layers_of(POWER_POOL, nn.LPPool2d),
    **layers_of(_adaptive(1), nn.AdaptiveAvgPool1d),
    **layers_of(_adaptive(2), nn.AdaptiveAvgPool2d),
    **layers_of({**_adaptive(1), "return_indices": flag}, nn.AdaptiveMaxPool1d),
    **layers_of({**_adaptive(2), "return_indices": flag}, nn.AdaptiveMaxPool2d),
    **layers_of({}, nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Softmax2d, nn.Identity),
    **layers_of(INPLACE, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid),
    **layers_of({"dim": optional(dimension)}, nn.Softmax, nn.LogSoftmax, nn.Softmin),
    **layers_of({"alpha": any_number, **INPLACE}, nn.ELU, nn.CELU),
    **layers_of({"lambd": number(0)}, nn.Softshrink, nn.Hardshrink),
    **layers_of({"approximate": choice("none", "tanh")}, nn.GELU),
    **layers_of({"dim": dimension}, nn.GLU),
    **layers_of({"min_val": any_number, "max_val": any_number, **INPLACE}, nn.Hardtanh),
    **layers_of({"negative_slope": any_number, **INPLACE}, nn.LeakyReLU),
    **layers_of({"num_parameters": channels}, nn.PReLU),
    **layers_of({"lower": share, "upper": share, **INPLACE}, nn.RReLU),
    **layers_of({"beta": any_number, "threshold": any_number}, nn.Softplus),
    **layers_of({"threshold": any_number, "value": any_number, **INPLACE}, nn.Threshold),
    "iqa_armor.models.sqish.Sqish": StoredLayer(Sqish, dict.fromkeys(("alpha", "beta", "gamma"), any_number)),
    **layers_of({"p": share, **INPLACE}, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    **layers_of({"p": share, **INPLACE}, nn.AlphaDropout, nn.FeatureAlphaDropout),
    **layers_of(_padding(1), nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ZeroPad1d, nn.CircularPad1d),
    **layers_of(_padding(2), nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d, nn.CircularPad2d),
    **layers_of({**_padding(1), "value": any_number}, nn.ConstantPad1d),
    **layers_of({**_padding(2), "value": any_number}, nn.ConstantPad2d),
    **layers_of({"groups": channels}, nn.ChannelShuffle),
    **layers_of({"dim": dimension, "eps": epsilon}, nn.CosineSimilarity, keywords=("x1", "x2")),
    **layers_of(
        {"p": Derived(any_number, lambda module: module.norm), "eps": epsilon, "keepdim": flag},
        nn.PairwiseDistance,
        keywords=("x1", "x2"),
    ),
    **layers_of({"start_dim": dimension, "end_dim": dimension}, nn.Flatten),
    **layers_of({"output_size": per_axis(2, 1, 2**14), **PATCHES}, nn.Fold),
    **layers_of(PATCHES, nn.Unfold),
    **layers_of({"upscale_factor": integer(1, MAX_SCALE)}, nn.PixelShuffle),
    **layers_of({"downscale_factor": integer(1, MAX_SCALE)}, nn.PixelUnshuffle),
    **layers_of({"dim": dimension, "unflattened_size": sequence(integer(-1, 2**22), 1, 6)}, nn.Unflatten),
    **layers_of({**UPSAMPLED, **MODES}, nn.Upsample),
    **layers_of(UPSAMPLED, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d),
    **BLOCKS,
}
LAYERS: Table[StoredLayer] = Table(_ENTRIES, "LAYERS", lambda layer: layer.kind)
