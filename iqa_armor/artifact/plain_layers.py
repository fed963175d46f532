"""The table of stored layers, part two: activations, dropout and changes of shape."""

from __future__ import annotations

from torch import nn

from iqa_armor.artifact.checks import (
    MAX_KERNEL,
    MAX_PADDING,
    channels,
    choice,
    dimension,
    either,
    epsilon,
    flag,
    integer,
    number,
    optional,
    per_axis,
    sequence,
    share,
)
from iqa_armor.artifact.stored_layer import Fields, StoredLayer
from iqa_armor.models.sqish import Sqish

MAX_SCALE = 64

any_number = number()
inplace = {"inplace": flag}
over_dimension = {"dim": optional(dimension)}


def _padding(axes: int) -> Fields:
    return {"padding": sequence(integer(-MAX_PADDING, MAX_PADDING), 2 * axes)}


def _upsample() -> Fields:
    size, scale = integer(1, 2**14), number(1 / MAX_SCALE, MAX_SCALE)
    return {
        "size": optional(either(size, sequence(size, 1, 3))),
        "scale_factor": optional(either(scale, sequence(scale, 1, 3))),
    }


def _patches() -> Fields:
    return {
        "kernel_size": per_axis(2, 1, MAX_KERNEL),
        "dilation": per_axis(2, 1, MAX_KERNEL),
        "padding": per_axis(2, 0, MAX_PADDING),
        "stride": per_axis(2, 1, MAX_KERNEL),
    }


ACTIVATIONS: dict[str, StoredLayer] = {
    **{
        f"torch.nn.{kind.__name__}": StoredLayer(kind, {})
        for kind in (nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Softmax2d)
    },
    **{
        f"torch.nn.{kind.__name__}": StoredLayer(kind, inplace)
        for kind in (nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid)
    },
    **{
        f"torch.nn.{kind.__name__}": StoredLayer(kind, over_dimension)
        for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin)
    },
    **{f"torch.nn.{kind.__name__}": StoredLayer(kind, {"alpha": any_number, **inplace}) for kind in (nn.ELU, nn.CELU)},
    **{f"torch.nn.{kind.__name__}": StoredLayer(kind, {"lambd": number(0)}) for kind in (nn.Softshrink, nn.Hardshrink)},
    "torch.nn.GELU": StoredLayer(nn.GELU, {"approximate": choice("none", "tanh")}),
    "torch.nn.GLU": StoredLayer(nn.GLU, {"dim": dimension}),
    "torch.nn.Hardtanh": StoredLayer(nn.Hardtanh, {"min_val": any_number, "max_val": any_number, **inplace}),
    "torch.nn.LeakyReLU": StoredLayer(nn.LeakyReLU, {"negative_slope": any_number, **inplace}),
    "torch.nn.PReLU": StoredLayer(nn.PReLU, {"num_parameters": channels}),
    "torch.nn.RReLU": StoredLayer(nn.RReLU, {"lower": share, "upper": share, **inplace}),
    "torch.nn.Softplus": StoredLayer(nn.Softplus, {"beta": any_number, "threshold": any_number}),
    "iqa_armor.models.sqish.Sqish": StoredLayer(Sqish, dict.fromkeys(("alpha", "beta", "gamma"), any_number)),
    "torch.nn.Threshold": StoredLayer(nn.Threshold, {"threshold": any_number, "value": any_number, **inplace}),
}

DROPOUTS: dict[str, StoredLayer] = {
    **{
        f"torch.nn.{kind.__name__}": StoredLayer(kind, {"p": share, **inplace})
        for kind in (
            nn.Dropout,
            nn.Dropout1d,
            nn.Dropout2d,
            nn.Dropout3d,
            nn.AlphaDropout,
            nn.FeatureAlphaDropout,
        )
    },
}

SHAPES: dict[str, StoredLayer] = {
    **{
        f"torch.nn.{kind.__name__}": StoredLayer(kind, _padding(axes))
        for axes, kinds in {
            1: (nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ZeroPad1d, nn.CircularPad1d),
            2: (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d, nn.CircularPad2d),
        }.items()
        for kind in kinds
    },
    "torch.nn.ConstantPad1d": StoredLayer(nn.ConstantPad1d, {**_padding(1), "value": any_number}),
    "torch.nn.ConstantPad2d": StoredLayer(nn.ConstantPad2d, {**_padding(2), "value": any_number}),
    "torch.nn.ChannelShuffle": StoredLayer(nn.ChannelShuffle, {"groups": channels}),
    "torch.nn.CosineSimilarity": StoredLayer(nn.CosineSimilarity, {"dim": dimension, "eps": epsilon}, ("x1", "x2")),
    "torch.nn.Flatten": StoredLayer(nn.Flatten, {"start_dim": dimension, "end_dim": dimension}),
    "torch.nn.Fold": StoredLayer(nn.Fold, {"output_size": per_axis(2, 1, 2**14), **_patches()}),
    "torch.nn.Identity": StoredLayer(nn.Identity, {}),
    "torch.nn.PixelShuffle": StoredLayer(nn.PixelShuffle, {"upscale_factor": integer(1, MAX_SCALE)}),
    "torch.nn.PixelUnshuffle": StoredLayer(nn.PixelUnshuffle, {"downscale_factor": integer(1, MAX_SCALE)}),
    "torch.nn.Unflatten": StoredLayer(
        nn.Unflatten, {"dim": dimension, "unflattened_size": sequence(integer(-1, 2**22), 1, 6)}
    ),
    "torch.nn.Unfold": StoredLayer(nn.Unfold, _patches()),
    "torch.nn.Upsample": StoredLayer(
        nn.Upsample,
        {
            **_upsample(),
            "mode": choice("nearest", "linear", "bilinear", "bicubic", "trilinear"),
            "align_corners": optional(flag),
            "recompute_scale_factor": optional(flag),
        },
    ),
    "torch.nn.UpsamplingBilinear2d": StoredLayer(nn.UpsamplingBilinear2d, _upsample()),
    "torch.nn.UpsamplingNearest2d": StoredLayer(nn.UpsamplingNearest2d, _upsample()),
}
