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
from iqa_armor.artifact.plain_layers import ACTIVATIONS, DROPOUTS, SHAPES
from iqa_armor.artifact.stored_layer import Derived, Fields, StoredLayer
from iqa_armor.artifact.table import Table

any_number = number()
has_bias = Derived(flag, lambda module: module.bias is not None)


def _convolution(axes: int) -> Fields:
    return {
        "in_channels": channels,
        "out_channels": channels,
        "kernel_size": per_axis(axes, 1, MAX_KERNEL),
        "stride": per_axis(axes, 1, MAX_KERNEL),
        "padding": either(choice("same", "valid"), per_axis(axes, 0, MAX_PADDING)),
        "dilation": per_axis(axes, 1, MAX_KERNEL),
        "groups": channels,
        "bias": has_bias,
        "padding_mode": choice("zeros", "reflect", "replicate", "circular"),
    }


def _transposed(axes: int) -> Fields:
    return {
        **_convolution(axes),
        "padding": per_axis(axes, 0, MAX_PADDING),
        "output_padding": per_axis(axes, 0, MAX_PADDING),
        "padding_mode": choice("zeros"),
    }


def _running_norm() -> Fields:
    return {
        "num_features": channels,
        "eps": epsilon,
        "momentum": optional(share),
        "affine": flag,
        "track_running_stats": flag,
    }


def _window(axes: int) -> Fields:
    return {
        "kernel_size": per_axis(axes, 1, MAX_KERNEL),
        "stride": per_axis(axes, 1, MAX_KERNEL),
        "padding": per_axis(axes, 0, MAX_PADDING),
    }


def _maximum(axes: int) -> Fields:
    return {
        **_window(axes),
        "dilation": per_axis(axes, 1, MAX_KERNEL),
        "return_indices": flag,
        "ceil_mode": flag,
    }


def _average(axes: int) -> Fields:
    return {**_window(axes), "ceil_mode": flag, "count_include_pad": flag}


def _adaptive(axes: int) -> Fields:
    size = optional(integer(1, MAX_KERNEL))
    return {"output_size": either(size, sequence(size, axes))}


def normalizing(kind: type[nn.LayerNorm], keyword: str) -> StoredLayer:
    """Return the entry of a layer normalization whose forward names its argument so."""
    fields: Fields = {
        "normalized_shape": sequence(channels, 1, 4),
        "eps": epsilon,
        "elementwise_affine": flag,
        "bias": has_bias,
    }
    return StoredLayer(kind, fields, (keyword,))


CONVOLUTIONS: dict[str, StoredLayer] = {
    "torch.nn.Conv1d": StoredLayer(nn.Conv1d, _convolution(1)),
    "torch.nn.Conv2d": StoredLayer(nn.Conv2d, _convolution(2)),
    "torch.nn.ConvTranspose1d": StoredLayer(nn.ConvTranspose1d, _transposed(1)),
    "torch.nn.ConvTranspose2d": StoredLayer(nn.ConvTranspose2d, _transposed(2)),
}

NORMS: dict[str, StoredLayer] = {
    **{
        f"torch.nn.{kind.__name__}": StoredLayer(kind, _running_norm())
        for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm1d, nn.InstanceNorm2d)
    },
    "torch.nn.LayerNorm": normalizing(nn.LayerNorm, "input"),
    "torch.nn.GroupNorm": StoredLayer(
        nn.GroupNorm,
        {
            "num_groups": channels,
            "num_channels": channels,
            "eps": epsilon,
            "affine": flag,
        },
    ),
    "torch.nn.RMSNorm": StoredLayer(
        nn.RMSNorm,
        {
            "normalized_shape": sequence(channels, 1, 4),
            "eps": optional(epsilon),
            "elementwise_affine": flag,
        },
        ("x",),
    ),
    "torch.nn.LocalResponseNorm": StoredLayer(
        nn.LocalResponseNorm,
        {"size": integer(1, MAX_KERNEL), "alpha": any_number, "beta": any_number, "k": any_number},
    ),
}

DENSE: dict[str, StoredLayer] = {
    "torch.nn.Linear": StoredLayer(
        nn.Linear,
        {"in_features": integer(1, 2**22), "out_features": channels, "bias": has_bias},
    ),
    "torch.nn.Bilinear": StoredLayer(
        nn.Bilinear,
        {
            "in1_features": channels,
            "in2_features": channels,
            "out_features": channels,
            "bias": has_bias,
        },
        ("input1", "input2"),
    ),
    "torch.nn.Embedding": StoredLayer(
        nn.Embedding,
        {
            "num_embeddings": integer(1, 2**22),
            "embedding_dim": channels,
            "padding_idx": optional(integer(-(2**22), 2**22)),
            "max_norm": optional(number()),
        },
    ),
    "torch.nn.MultiheadAttention": StoredLayer(
        nn.MultiheadAttention,
        {
            "embed_dim": channels,
            "num_heads": channels,
            "dropout": share,
            "bias": Derived(flag, lambda module: module.in_proj_bias is not None),
            "add_bias_kv": Derived(flag, lambda module: module.bias_k is not None),
            "add_zero_attn": flag,
            "kdim": channels,
            "vdim": channels,
            "batch_first": flag,
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

POOLS: dict[str, StoredLayer] = {
    "torch.nn.MaxPool1d": StoredLayer(nn.MaxPool1d, _maximum(1)),
    "torch.nn.MaxPool2d": StoredLayer(nn.MaxPool2d, _maximum(2)),
    "torch.nn.AvgPool1d": StoredLayer(nn.AvgPool1d, _average(1)),
    "torch.nn.AvgPool2d": StoredLayer(nn.AvgPool2d, {**_average(2), "divisor_override": optional(integer(1, 2**20))}),
    "torch.nn.LPPool2d": StoredLayer(
        nn.LPPool2d,
        {
            "norm_type": number(0.1, 64),
            "kernel_size": per_axis(2, 1, MAX_KERNEL),
            "stride": optional(per_axis(2, 1, MAX_KERNEL)),
            "ceil_mode": flag,
        },
    ),
    "torch.nn.AdaptiveAvgPool1d": StoredLayer(nn.AdaptiveAvgPool1d, _adaptive(1)),
    "torch.nn.AdaptiveAvgPool2d": StoredLayer(nn.AdaptiveAvgPool2d, _adaptive(2)),
    "torch.nn.AdaptiveMaxPool1d": StoredLayer(nn.AdaptiveMaxPool1d, {**_adaptive(1), "return_indices": flag}),
    "torch.nn.AdaptiveMaxPool2d": StoredLayer(nn.AdaptiveMaxPool2d, {**_adaptive(2), "return_indices": flag}),
}

LAYERS: Table[StoredLayer] = Table(
    {**CONVOLUTIONS, **NORMS, **DENSE, **POOLS, **ACTIVATIONS, **DROPOUTS, **SHAPES, **BLOCKS},
    "LAYERS",
    lambda layer: layer.kind,
)
