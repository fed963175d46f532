"""The functions of torch and of Python's operators that a stored graph may call."""

from __future__ import annotations

import builtins
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch.nn import functional

from iqa_armor.artifact.signatures import EXPONENT, GROWTH, Signature

EQUATION = re.compile(r"[a-zA-Z,. ]{1,64}(->[a-zA-Z. ]{0,32})?")
ROUNDINGS = ("floor", "trunc")
# Attributes of a tensor that `getattr` may read.
ATTRIBUTES = ("shape", "ndim", "dtype", "device", "T", "mT", "is_cuda")
RESAMPLING = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area")
PADDING = ("constant", "reflect", "replicate", "circular")
SAMPLING = ("bilinear", "nearest", "bicubic", "zeros", "border", "reflection")
CONVOLUTION = "input weight bias? stride? padding? dilation? groups?"
TRANSPOSED = "input weight bias? stride? padding? output_padding? groups? dilation?"
POOLING = "input kernel_size stride? padding? dilation? ceil_mode? return_indices?"
AVERAGING = "input kernel_size stride? padding? ceil_mode? count_include_pad? divisor_override?"
RESIZING = "input size scale_factor? mode? align_corners? recompute_scale_factor? antialias?"
NORMALIZING = "input running_mean running_var weight? bias? training? momentum? eps?"


@dataclass(frozen=True)
class StoredFunction:
    """A function that a stored graph may call, and with which arguments."""

    target: Callable[..., Any]
    signature: Signature


def _each(module: ModuleType, names: str, signature: Signature) -> dict[str, StoredFunction]:
    """Return functions of a module, which share a signature, by their full names."""
    return {f"{module.__name__}.{name}": StoredFunction(getattr(module, name), signature) for name in names.split()}


def _pair(*, literals: bool = False, on_node: bool = False, largest: int = 2**31 - 1) -> Signature:
    return Signature("a b", positional_only=True, literals=literals, on_node=on_node, largest=largest)


_OPERATORS = {
    **_each(
        builtins,
        "getattr",
        Signature("object name", ATTRIBUTES, positional_only=True, on_node=True, needs_text=True),
    ),
    **_each(operator, "getitem", _pair(literals=True, on_node=True)),
    # Tuples may be joined (`x.shape[:2] + (-1,)`) but not repeated.
    **_each(operator, "add", _pair(literals=True)),
    **_each(operator, "pow", _pair(largest=EXPONENT)),
    **_each(operator, "sub mul truediv floordiv mod matmul eq ne lt le gt ge and_ or_", _pair()),
    **_each(operator, "iadd isub imul itruediv", _pair(on_node=True)),
    **_each(operator, "neg pos abs invert", Signature("a", positional_only=True, literals=False)),
}

_ARITHMETIC = {
    **_each(
        torch,
        "abs ceil clone conj cos detach erf exp expm1 floor log log10 log1p log2 logical_not neg numel reciprocal relu "
        "round rsqrt sigmoid sign sin sqrt square t tanh trunc",
        Signature("input", literals=False),
    ),
    **_each(
        torch,
        "bmm dot eq floor_divide ge gt le lt matmul maximum minimum mm mul multiply mv ne outer remainder true_divide",
        Signature("input other", literals=False),
    ),
    **_each(torch, "add sub subtract rsub", Signature("input other alpha?", literals=False)),
    **_each(torch, "div", Signature("input other rounding_mode?", ROUNDINGS, literals=False)),
    **_each(torch, "pow", Signature("input exponent", largest=EXPONENT, literals=False)),
    **_each(torch, "clamp", Signature("input min? max?")),
    **_each(torch, "lerp", Signature("input end weight")),
    **_each(torch, "where", Signature("condition input other")),
    **_each(torch, "masked_fill", Signature("input mask value")),
    **_each(torch, "addmm", Signature("input mat1 mat2 beta? alpha?")),
    **_each(torch, "baddbmm", Signature("input batch1 batch2 beta? alpha?")),
    **_each(torch, "einsum", Signature("equation operand", pattern=EQUATION, many=True, positional_only=True)),
    **_each(torch, "zeros_like ones_like", Signature("input dtype?")),
    **_each(torch, "full_like", Signature("input fill_value dtype?")),
}

_SHAPING = {
    **_each(torch, "cat concat stack", Signature("tensors dim?")),
    **_each(torch, "chunk", Signature("input chunks dim?", largest=GROWTH)),
    **_each(torch, "split", Signature("tensor split_size_or_sections dim?")),
    **_each(torch, "unbind squeeze", Signature("input dim?")),
    **_each(torch, "flatten", Signature("input start_dim? end_dim?")),
    **_each(torch, "unflatten", Signature("input dim sizes")),
    **_each(torch, "reshape", Signature("input shape")),
    **_each(torch, "permute flip", Signature("input dims")),
    **_each(torch, "transpose", Signature("input dim0 dim1")),
    **_each(torch, "swapaxes", Signature("input axis0 axis1")),
    **_each(torch, "movedim", Signature("input source destination")),
    **_each(torch, "unsqueeze", Signature("input dim")),
    **_each(torch, "narrow", Signature("input dim start length")),
    **_each(torch, "select index_select gather", Signature("input dim index")),
    **_each(torch, "roll", Signature("input shifts dims?")),
    **_each(torch, "tile", Signature("input dims", largest=GROWTH)),
    **_each(torch, "repeat_interleave", Signature("input repeats dim?", largest=GROWTH)),
    **_each(torch, "channel_shuffle", Signature("input groups")),
    **_each(torch, "pixel_shuffle", Signature("input upscale_factor")),
    **_each(torch, "pixel_unshuffle", Signature("input downscale_factor")),
}

_REDUCTIONS = {
    **_each(torch, "mean sum prod", Signature("input dim? keepdim? dtype?")),
    **_each(torch, "std var std_mean var_mean", Signature("input dim? unbiased? keepdim? correction?")),
    **_each(torch, "max min amax amin argmax", Signature("input dim? keepdim?")),
    **_each(torch, "logsumexp", Signature("input dim keepdim?")),
    **_each(torch, "cumsum softmax log_softmax", Signature("input dim dtype?")),
    **_each(torch, "norm", Signature("input p? dim? keepdim? dtype?", ("fro",))),
    **_each(torch.linalg, "norm", Signature("A ord? dim? keepdim?", ("fro", "nuc"))),
    **_each(torch.linalg, "vector_norm", Signature("x ord? dim? keepdim?")),
}

_ACTIVATIONS = {
    **_each(functional, "relu relu6 selu silu mish hardswish hardsigmoid", Signature("input inplace?")),
    **_each(functional, "relu_ sigmoid tanh logsigmoid softsign tanhshrink", Signature("input")),
    **_each(functional, "elu celu", Signature("input alpha? inplace?")),
    **_each(functional, "hardshrink softshrink", Signature("input lambd?")),
    # fx itself passes `_stacklevel` on from these three.
    **_each(functional, "softmax log_softmax softmin", Signature("input dim? _stacklevel? dtype?")),
    **_each(functional, "leaky_relu", Signature("input negative_slope? inplace?")),
    **_each(functional, "hardtanh", Signature("input min_val? max_val? inplace?")),
    **_each(functional, "softplus", Signature("input beta? threshold?")),
    **_each(functional, "threshold", Signature("input threshold? value? inplace?")),
    **_each(functional, "prelu", Signature("input weight?")),
    **_each(functional, "rrelu", Signature("input lower? upper? training? inplace?")),
    **_each(functional, "glu", Signature("input dim?")),
    **_each(functional, "gelu", Signature("input approximate?", ("none", "tanh"))),
    **_each(
        functional,
        "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout",
        Signature("input p? training? inplace?"),
    ),
    **_each(torchvision.ops, "stochastic_depth", Signature("input p mode training?", ("batch", "row"))),
}

_LAYERS = {
    **_each(functional, "linear", Signature("input weight bias?")),
    **_each(functional, "bilinear", Signature("input1 input2 weight bias?")),
    **_each(functional, "conv1d conv2d", Signature(CONVOLUTION, ("same", "valid"))),
    **_each(functional, "conv_transpose1d conv_transpose2d", Signature(TRANSPOSED, largest=GROWTH)),
    **_each(
        functional,
        "embedding",
        Signature("input weight padding_idx? max_norm? norm_type? scale_grad_by_freq? sparse?"),
    ),
    **_each(
        functional,
        "scaled_dot_product_attention",
        Signature("query key value attn_mask? dropout_p? is_causal? scale?"),
    ),
    **_each(functional, "normalize", Signature("input p? dim? eps?")),
    **_each(functional, "layer_norm", Signature("input normalized_shape weight? bias? eps?")),
    **_each(functional, "rms_norm", Signature("input normalized_shape weight? eps?")),
    **_each(functional, "group_norm", Signature("input num_groups weight? bias? eps?")),
    **_each(functional, "batch_norm", Signature(NORMALIZING)),
    **_each(
        functional,
        "instance_norm",
        Signature("input running_mean? running_var? weight? bias? use_input_stats? momentum? eps?"),
    ),
    **_each(functional, "local_response_norm", Signature("input size alpha? beta? k?", largest=GROWTH)),
    **_each(functional, "cosine_similarity", Signature("x1 x2 dim? eps?")),
    **_each(functional, "pairwise_distance", Signature("x1 x2 p? eps? keepdim?")),
}

_SPATIAL = {
    **_each(functional, "max_pool1d max_pool2d", Signature(POOLING)),
    **_each(functional, "avg_pool1d avg_pool2d", Signature(AVERAGING)),
    **_each(functional, "lp_pool2d", Signature("input norm_type kernel_size stride? ceil_mode?")),
    **_each(functional, "adaptive_avg_pool1d adaptive_avg_pool2d", Signature("input output_size", largest=GROWTH)),
    **_each(
        functional,
        "adaptive_max_pool1d adaptive_max_pool2d",
        Signature("input output_size return_indices?", largest=GROWTH),
    ),
    **_each(functional, "interpolate", Signature(RESIZING, RESAMPLING, largest=GROWTH)),
    **_each(functional, "pad", Signature("input pad mode? value?", PADDING, largest=GROWTH)),
    **_each(functional, "unfold", Signature("input kernel_size dilation? padding? stride?", largest=GROWTH)),
    **_each(functional, "fold", Signature("input output_size kernel_size dilation? padding? stride?", largest=GROWTH)),
    **_each(functional, "grid_sample", Signature("input grid mode? padding_mode? align_corners?", SAMPLING)),
}

FUNCTIONS: dict[str, StoredFunction] = {
    **_OPERATORS,
    **_ARITHMETIC,
    **_SHAPING,
    **_REDUCTIONS,
    **_ACTIVATIONS,
    **_LAYERS,
    **_SPATIAL,
}
NAME_OF_FUNCTION: dict[object, str] = {function.target: name for name, function in FUNCTIONS.items()}
