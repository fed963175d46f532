"""The whole table of stored layers, and its part one: those with weights, and pooling."""

from __future__ import annotations

from torch import nn

from iqa_armor.artifact.blocks import BLOCKS
from iqa_armor.artifact.checks import (
    MAX_KERNEL,
    MAX_PADDING,
    channels,
    choice,
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
from iqa_armor.artifact.plain_layers import ACTIVATIONS, DROPOUTS, SHAPES
from iqa_armor.artifact.table import Table

any_number = Field(number())
has_bias = Field(flag, lambda module: module.bias is not None)


def _convolution(axes: int) -> dict[str, Field]:
    return {
        "in_channels": Field(channels),
        "out_channels": Field(channels),
        "kernel_size": Field(per_axis(axes, 1, MAX_KERNEL)),
        "stride": Field(per_axis(axes, 1, MAX_KERNEL)),
        "padding": Field(either(choice("same", "valid"), per_axis(axes, 0, MAX_PADDING))),
        "dilation": Field(per_axis(axes, 1, MAX_KERNEL)),
        "groups": Field(channels),
        "bias": has_bias,
        "padding_mode": Field(choice("zeros", "reflect", "replicate", "circular")),
    }


def _transposed(axes: int) -> dict[str, Field]:
    return {
        **_convolution(axes),
        "padding": Field(per_axis(axes, 0, MAX_PADDING)),
        "output_padding": Field(per_axis(axes, 0, MAX_PADDING)),
        "padding_mode": Field(choice("zeros")),
    }


def _running_norm() -> dict[str, Field]:
    return {
        "num_features": Field(channels),
        "eps": Field(epsilon),
        "momentum": Field(optional(share)),
        "affine": Field(flag),
        "track_running_stats": Field(flag),
    }


def _window(axes: int) -> dict[str, Field]:
    return {
        "kernel_size": Field(per_axis(axes, 1, MAX_KERNEL)),
        "stride": Field(per_axis(axes, 1, MAX_KERNEL)),
        "padding": Field(per_axis(axes, 0, MAX_PADDING)),
    }


def _maximum(axes: int) -> dict[str, Field]:
    return {
        **_window(axes),
        "dilation": Field(per_axis(axes, 1, MAX_KERNEL)),
        "return_indices": Field(flag),
        "ceil_mode": Field(flag),
    }


def _average(axes: int) -> dict[str, Field]:
    return {**_window(axes), "ceil_mode": Field(flag), "count_include_pad": Field(flag)}


def _adaptive(axes: int) -> dict[str, Field]:
    size = optional(integer(1, MAX_KERNEL))
    return {"output_size": Field(either(size, sequence(size, axes)))}


def normalizing(kind: type[nn.LayerNorm], keyword: str) -> Leaf:
    """Return the entry of a layer normalization whose forward names its argument so."""
    fields = {
        "normalized_shape": Field(sequence(channels, 1, 4)),
        "eps": Field(epsilon),
        "elementwise_affine": Field(flag),
        "bias": has_bias,
    }
    return Leaf(kind, fields, (keyword,))


CONVOLUTIONS: dict[str, Leaf] = {
    "torch.nn.Conv1d": Leaf(nn.Conv1d, _convolution(1)),
    "torch.nn.Conv2d": Leaf(nn.Conv2d, _convolution(2)),
    "torch.nn.ConvTranspose1d": Leaf(nn.ConvTranspose1d, _transposed(1)),
    "torch.nn.ConvTranspose2d": Leaf(nn.ConvTranspose2d, _transposed(2)),
}

NORMS: dict[str, Leaf] = {
    **{
        f"torch.nn.{kind.__name__}": Leaf(kind, _running_norm())
        for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm1d, nn.InstanceNorm2d)
    },
    "torch.nn.LayerNorm": normalizing(nn.LayerNorm, "input"),
    "torch.nn.GroupNorm": Leaf(
        nn.GroupNorm,
        {
            "num_groups": Field(channels),
            "num_channels": Field(channels),
            "eps": Field(epsilon),
            "affine": Field(flag),
        },
    ),
    "torch.nn.RMSNorm": Leaf(
        nn.RMSNorm,
        {
            "normalized_shape": Field(sequence(channels, 1, 4)),
            "eps": Field(optional(epsilon)),
            "elementwise_affine": Field(flag),
        },
        ("x",),
    ),
    "torch.nn.LocalResponseNorm": Leaf(
        nn.LocalResponseNorm,
        {"size": Field(integer(1, MAX_KERNEL)), "alpha": any_number, "beta": any_number, "k": any_number},
    ),
}

DENSE: dict[str, Leaf] = {
    "torch.nn.Linear": Leaf(
        nn.Linear,
        {"in_features": Field(integer(1, 2**22)), "out_features": Field(channels), "bias": has_bias},
    ),
    "torch.nn.Bilinear": Leaf(
        nn.Bilinear,
        {
            "in1_features": Field(channels),
            "in2_features": Field(channels),
            "out_features": Field(channels),
            "bias": has_bias,
        },
        ("input1", "input2"),
    ),
    "torch.nn.Embedding": Leaf(
        nn.Embedding,
        {
            "num_embeddings": Field(integer(1, 2**22)),
            "embedding_dim": Field(channels),
            "padding_idx": Field(optional(integer(-(2**22), 2**22))),
            "max_norm": Field(optional(number())),
        },
    ),
    "torch.nn.MultiheadAttention": Leaf(
        nn.MultiheadAttention,
        {
            "embed_dim": Field(channels),
            "num_heads": Field(channels),
            "dropout": Field(share),
            "bias": Field(flag, lambda module: module.in_proj_bias is not None),
            "add_bias_kv": Field(flag, lambda module: module.bias_k is not None),
            "add_zero_attn": Field(flag),
            "kdim": Field(channels),
            "vdim": Field(channels),
            "batch_first": Field(flag),
        },
        (
            *(
                "query",
                "key",
                "value",
                "key_padding_mask",
                "need_weights",
                "attn_mask",
                "average_attn_weights",
            ),
            "is_causal",
        ),
    ),
}

POOLS: dict[str, Leaf] = {
    "torch.nn.MaxPool1d": Leaf(nn.MaxPool1d, _maximum(1)),
    "torch.nn.MaxPool2d": Leaf(nn.MaxPool2d, _maximum(2)),
    "torch.nn.AvgPool1d": Leaf(nn.AvgPool1d, _average(1)),
    "torch.nn.AvgPool2d": Leaf(nn.AvgPool2d, {**_average(2), "divisor_override": Field(optional(integer(1, 2**20)))}),
    "torch.nn.LPPool2d": Leaf(
        nn.LPPool2d,
        {
            "norm_type": Field(number(0.1, 64)),
            "kernel_size": Field(per_axis(2, 1, MAX_KERNEL)),
            "stride": Field(optional(per_axis(2, 1, MAX_KERNEL))),
            "ceil_mode": Field(flag),
        },
    ),
    "torch.nn.AdaptiveAvgPool1d": Leaf(nn.AdaptiveAvgPool1d, _adaptive(1)),
    "torch.nn.AdaptiveAvgPool2d": Leaf(nn.AdaptiveAvgPool2d, _adaptive(2)),
    "torch.nn.AdaptiveMaxPool1d": Leaf(nn.AdaptiveMaxPool1d, {**_adaptive(1), "return_indices": Field(flag)}),
    "torch.nn.AdaptiveMaxPool2d": Leaf(nn.AdaptiveMaxPool2d, {**_adaptive(2), "return_indices": Field(flag)}),
}

LAYERS: Table[Leaf] = Table(
    {**CONVOLUTIONS, **NORMS, **DENSE, **POOLS, **ACTIVATIONS, **DROPOUTS, **SHAPES, **BLOCKS},
    "LAYERS",
    lambda leaf: leaf.kind,
)
