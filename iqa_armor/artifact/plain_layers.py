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
from iqa_armor.artifact.leaf import Field, Leaf
from iqa_armor.models.sqish import Sqish

MAX_SCALE = 64

any_number = Field(number())
inplace = {"inplace": Field(flag)}
over_dimension = {"dim": Field(optional(dimension))}


def _padding(axes: int) -> dict[str, Field]:
    return {"padding": Field(sequence(integer(-MAX_PADDING, MAX_PADDING), 2 * axes))}


def _upsample() -> dict[str, Field]:
    size, scale = integer(1, 2**14), number(1 / MAX_SCALE, MAX_SCALE)
    return {
        "size": Field(optional(either(size, sequence(size, 1, 3)))),
        "scale_factor": Field(optional(either(scale, sequence(scale, 1, 3)))),
    }


def _patches() -> dict[str, Field]:
    return {
        "kernel_size": Field(per_axis(2, 1, MAX_KERNEL)),
        "dilation": Field(per_axis(2, 1, MAX_KERNEL)),
        "padding": Field(per_axis(2, 0, MAX_PADDING)),
        "stride": Field(per_axis(2, 1, MAX_KERNEL)),
    }


ACTIVATIONS: dict[str, Leaf] = {
    **{
        f"torch.nn.{kind.__name__}": Leaf(kind, {})
        for kind in (nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Softmax2d)
    },
    **{
        f"torch.nn.{kind.__name__}": Leaf(kind, inplace)
        for kind in (nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid)
    },
    **{f"torch.nn.{kind.__name__}": Leaf(kind, over_dimension) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin)},
    **{f"torch.nn.{kind.__name__}": Leaf(kind, {"alpha": any_number, **inplace}) for kind in (nn.ELU, nn.CELU)},
    **{f"torch.nn.{kind.__name__}": Leaf(kind, {"lambd": Field(number(0))}) for kind in (nn.Softshrink, nn.Hardshrink)},
    "torch.nn.GELU": Leaf(nn.GELU, {"approximate": Field(choice("none", "tanh"))}),
    "torch.nn.GLU": Leaf(nn.GLU, {"dim": Field(dimension)}),
    "torch.nn.Hardtanh": Leaf(nn.Hardtanh, {"min_val": any_number, "max_val": any_number, **inplace}),
    "torch.nn.LeakyReLU": Leaf(nn.LeakyReLU, {"negative_slope": any_number, **inplace}),
    "torch.nn.PReLU": Leaf(nn.PReLU, {"num_parameters": Field(channels)}),
    "torch.nn.RReLU": Leaf(nn.RReLU, {"lower": Field(share), "upper": Field(share), **inplace}),
    "torch.nn.Softplus": Leaf(nn.Softplus, {"beta": any_number, "threshold": any_number}),
    "iqa_armor.models.sqish.Sqish": Leaf(Sqish, dict.fromkeys(("alpha", "beta", "gamma"), any_number)),
    "torch.nn.Threshold": Leaf(nn.Threshold, {"threshold": any_number, "value": any_number, **inplace}),
}

DROPOUTS: dict[str, Leaf] = {
    **{
        f"torch.nn.{kind.__name__}": Leaf(kind, {"p": Field(share), **inplace})
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

SHAPES: dict[str, Leaf] = {
    **{
        f"torch.nn.{kind.__name__}": Leaf(kind, _padding(axes))
        for axes, kinds in {
            1: (nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ZeroPad1d, nn.CircularPad1d),
            2: (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d, nn.CircularPad2d),
        }.items()
        for kind in kinds
    },
    "torch.nn.ConstantPad1d": Leaf(nn.ConstantPad1d, {**_padding(1), "value": any_number}),
    "torch.nn.ConstantPad2d": Leaf(nn.ConstantPad2d, {**_padding(2), "value": any_number}),
    "torch.nn.ChannelShuffle": Leaf(nn.ChannelShuffle, {"groups": Field(channels)}),
    "torch.nn.CosineSimilarity": Leaf(
        nn.CosineSimilarity, {"dim": Field(dimension), "eps": Field(epsilon)}, ("x1", "x2")
    ),
    "torch.nn.Flatten": Leaf(nn.Flatten, {"start_dim": Field(dimension), "end_dim": Field(dimension)}),
    "torch.nn.Fold": Leaf(nn.Fold, {"output_size": Field(per_axis(2, 1, 2**14)), **_patches()}),
    "torch.nn.Identity": Leaf(nn.Identity, {}),
    "torch.nn.PixelShuffle": Leaf(nn.PixelShuffle, {"upscale_factor": Field(integer(1, MAX_SCALE))}),
    "torch.nn.PixelUnshuffle": Leaf(nn.PixelUnshuffle, {"downscale_factor": Field(integer(1, MAX_SCALE))}),
    "torch.nn.Unflatten": Leaf(
        nn.Unflatten, {"dim": Field(dimension), "unflattened_size": Field(sequence(integer(-1, 2**22), 1, 6))}
    ),
    "torch.nn.Unfold": Leaf(nn.Unfold, _patches()),
    "torch.nn.Upsample": Leaf(
        nn.Upsample,
        {
            **_upsample(),
            "mode": Field(choice("nearest", "linear", "bilinear", "bicubic", "trilinear")),
            "align_corners": Field(optional(flag)),
            "recompute_scale_factor": Field(optional(flag)),
        },
    ),
    "torch.nn.UpsamplingBilinear2d": Leaf(nn.UpsamplingBilinear2d, _upsample()),
    "torch.nn.UpsamplingNearest2d": Leaf(nn.UpsamplingNearest2d, _upsample()),
}
