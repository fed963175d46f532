"""The functions and Tensor methods that a stored graph may call."""

import builtins
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional

import iqa_armor.graph.interpret
from iqa_armor.artifact.signatures import EXPONENT, GROWTH, Signature, Table

EQUATION = re.compile(r"[a-zA-Z,. ]{1,64}(->[a-zA-Z. ]{0,32})?")
# Attributes of a tensor that `getattr` may read.
ATTRIBUTES = ("shape", "ndim", "dtype", "device", "T", "mT", "is_cuda", "real", "imag")
RESAMPLING = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area")
PADDING = ("constant", "reflect", "replicate", "circular")
SAMPLING = ("bilinear", "nearest", "bicubic", "zeros", "border", "reflection")
DISTANCES = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
FOURIER = ("backward", "ortho", "forward")
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


def functions_of(module: ModuleType, names: str, signature: Signature) -> dict[str, StoredFunction]:
    """Return functions of a module, which share a signature, by their full names."""
    return {f"{module.__name__}.{name}": StoredFunction(getattr(module, name), signature) for name in names.split()}


def _pair(*, literals: bool = False, on_node: bool = False, largest: int = 2**31 - 1) -> Signature:
    return Signature("a b", positional_only=True, literals=literals, on_node=on_node, largest=largest)


_ENTRIES = {
    **functions_of(
        builtins, "getattr", Signature("object name", ATTRIBUTES, positional_only=True, on_node=True, needs_text=True)
    ),
    **functions_of(operator, "getitem", _pair(literals=True, on_node=True)),
    # Tuples may be joined (`x.shape[:2] + (-1,)`) but not repeated.
    **functions_of(operator, "add", _pair(literals=True)),
    **functions_of(operator, "pow", _pair(largest=EXPONENT)),
    **functions_of(operator, "sub mul truediv floordiv mod matmul eq ne lt le gt ge and_ or_", _pair()),
    **functions_of(operator, "iadd isub imul itruediv", _pair(on_node=True)),
    **functions_of(operator, "neg pos abs invert", Signature("a", positional_only=True, literals=False)),
    **functions_of(math, "ceil floor sqrt log trunc", Signature("x", positional_only=True, literals=False)),
    **functions_of(
        torch,
        "abs ceil clone conj cos detach erf exp expm1 floor log log10 log1p log2 logical_not neg numel reciprocal relu "
        "round rsqrt sigmoid sign sin sqrt square t tanh trunc",
        Signature("input", literals=False),
    ),
    **functions_of(
        torch,
        "bmm dot eq floor_divide ge gt le lt matmul maximum minimum mm mul multiply mv ne outer remainder true_divide",
        Signature("input other", literals=False),
    ),
    **functions_of(torch, "add sub subtract rsub", Signature("input other alpha?", literals=False)),
    **functions_of(torch, "div", Signature("input other rounding_mode?", ("floor", "trunc"), literals=False)),
    **functions_of(torch, "pow", Signature("input exponent", largest=EXPONENT, literals=False)),
    **functions_of(torch, "clamp", Signature("input min? max?")),
    **functions_of(torch.functional, "cdist", Signature("x1 x2 p? compute_mode?", DISTANCES)),
    **functions_of(torch, "diagonal", Signature("input offset? dim1? dim2?")),
    **functions_of(torch, "lerp", Signature("input end weight")),
    **functions_of(torch, "addcmul addcdiv", Signature("input tensor1 tensor2 value?")),
    **functions_of(torch, "where", Signature("condition input other")),
    **functions_of(torch, "masked_fill", Signature("input mask value")),
    **functions_of(torch, "addmm", Signature("input mat1 mat2 beta? alpha?")),
    **functions_of(torch, "baddbmm", Signature("input batch1 batch2 beta? alpha?")),
    **functions_of(torch, "einsum", Signature("equation operand", pattern=EQUATION, many=True, positional_only=True)),
    **functions_of(torch, "zeros_like ones_like", Signature("input dtype? device?")),
    **functions_of(torch, "arange", Signature("start end? step? dtype? device?", largest=GROWTH)),
    **functions_of(torch, "zeros ones", Signature("size dtype? device?", many=True, largest=GROWTH)),
    **functions_of(torch, "full", Signature("size fill_value dtype? device?", largest=GROWTH)),
    **functions_of(torch, "linspace", Signature("start end steps dtype? device?", largest=GROWTH)),
    **functions_of(torch, "meshgrid", Signature("tensors indexing?", ("ij", "xy"), many=True)),
    **functions_of(torch, "full_like", Signature("input fill_value dtype?")),
    **functions_of(torch, "cat concat stack", Signature("tensors dim?")),
    **functions_of(torch, "hstack vstack", Signature("tensors")),
    **functions_of(torch, "chunk", Signature("input chunks dim?", largest=GROWTH)),
    **functions_of(torch, "split", Signature("tensor split_size_or_sections dim?")),
    **functions_of(torch, "unbind squeeze unsqueeze", Signature("input dim?")),
    **functions_of(torch, "flatten", Signature("input start_dim? end_dim?")),
    **functions_of(torch, "unflatten", Signature("input dim sizes")),
    **functions_of(torch, "reshape", Signature("input shape")),
    **functions_of(torch, "permute flip", Signature("input dims")),
    **functions_of(torch, "transpose", Signature("input dim0 dim1")),
    **functions_of(torch, "swapaxes", Signature("input axis0 axis1")),
    **functions_of(torch, "movedim", Signature("input source destination")),
    **functions_of(torch, "narrow", Signature("input dim start length")),
    **functions_of(iqa_armor.graph.interpret, "with_item", Signature("tensor index value", literals=True)),
    **functions_of(iqa_armor.graph.interpret, "for_each", Signature("value images", literals=False)),
    **functions_of(torch, "select index_select gather", Signature("input dim index")),
    **functions_of(torch, "roll", Signature("input shifts dims?")),
    **functions_of(torch, "tile", Signature("input dims", largest=GROWTH)),
    **functions_of(torch, "repeat_interleave", Signature("input repeats dim?", largest=GROWTH)),
    **functions_of(torch, "channel_shuffle", Signature("input groups")),
    **functions_of(torch, "pixel_shuffle", Signature("input upscale_factor")),
    **functions_of(torch, "pixel_unshuffle", Signature("input downscale_factor")),
    **functions_of(torch, "mean sum prod", Signature("input dim? keepdim? dtype?")),
    **functions_of(torch, "std var std_mean var_mean", Signature("input dim? unbiased? keepdim? correction?")),
    **functions_of(torch, "max min amax amin argmax", Signature("input dim? keepdim?")),
    **functions_of(torch, "topk", Signature("input k dim? largest? sorted?", largest=GROWTH)),
    **functions_of(torch, "sort argsort", Signature("input dim? descending? stable?")),
    **functions_of(torch, "logsumexp", Signature("input dim keepdim?")),
    **functions_of(torch, "cumsum softmax log_softmax", Signature("input dim dtype?")),
    **functions_of(torch, "norm", Signature("input p? dim? keepdim? dtype?", ("fro",))),
    **functions_of(torch, "rand_like randn_like", Signature("input dtype? device?")),
    **functions_of(torch, "angle real imag view_as_real", Signature("input", literals=False)),
    **functions_of(torch.fft, "fft ifft rfft irfft", Signature("input n? dim? norm?", FOURIER, largest=GROWTH)),
    **functions_of(
        torch.fft,
        "fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn",
        Signature("input s? dim? norm?", FOURIER, largest=GROWTH),
    ),
    **functions_of(torch.fft, "fftshift ifftshift", Signature("input dim?")),
    **functions_of(torch.linalg, "norm", Signature("A ord? dim? keepdim?", ("fro", "nuc"))),
    **functions_of(torch.linalg, "vector_norm", Signature("x ord? dim? keepdim?")),
    **functions_of(functional, "relu relu6 selu silu mish hardswish hardsigmoid", Signature("input inplace?")),
    **functions_of(functional, "relu_ sigmoid tanh logsigmoid softsign tanhshrink", Signature("input")),
    **functions_of(functional, "elu celu", Signature("input alpha? inplace?")),
    **functions_of(functional, "hardshrink softshrink", Signature("input lambd?")),
    # fx itself passes `_stacklevel` on from these three.
    **functions_of(functional, "softmax log_softmax softmin", Signature("input dim? _stacklevel? dtype?")),
    **functions_of(functional, "leaky_relu", Signature("input negative_slope? inplace?")),
    **functions_of(functional, "hardtanh", Signature("input min_val? max_val? inplace?")),
    **functions_of(functional, "softplus", Signature("input beta? threshold?")),
    **functions_of(functional, "threshold", Signature("input threshold? value? inplace?")),
    **functions_of(functional, "prelu", Signature("input weight?")),
    **functions_of(functional, "rrelu", Signature("input lower? upper? training? inplace?")),
    **functions_of(functional, "glu", Signature("input dim?")),
    **functions_of(functional, "gelu", Signature("input approximate?", ("none", "tanh"))),
    **functions_of(
        functional,
        "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout",
        Signature("input p? training? inplace?"),
    ),
    **functions_of(functional, "linear", Signature("input weight bias?")),
    **functions_of(functional, "bilinear", Signature("input1 input2 weight bias?")),
    **functions_of(functional, "conv1d conv2d", Signature(CONVOLUTION, ("same", "valid"))),
    **functions_of(functional, "conv_transpose1d conv_transpose2d", Signature(TRANSPOSED, largest=GROWTH)),
    **functions_of(
        functional, "embedding", Signature("input weight padding_idx? max_norm? norm_type? scale_grad_by_freq? sparse?")
    ),
    **functions_of(
        functional, "scaled_dot_product_attention", Signature("query key value attn_mask? dropout_p? is_causal? scale?")
    ),
    **functions_of(functional, "normalize", Signature("input p? dim? eps?")),
    **functions_of(functional, "layer_norm", Signature("input normalized_shape weight? bias? eps?")),
    **functions_of(functional, "rms_norm", Signature("input normalized_shape weight? eps?")),
    **functions_of(functional, "group_norm", Signature("input num_groups weight? bias? eps?")),
    **functions_of(functional, "batch_norm", Signature(NORMALIZING)),
    **functions_of(
        functional,
        "instance_norm",
        Signature("input running_mean? running_var? weight? bias? use_input_stats? momentum? eps?"),
    ),
    **functions_of(functional, "local_response_norm", Signature("input size alpha? beta? k?", largest=GROWTH)),
    **functions_of(functional, "cosine_similarity", Signature("x1 x2 dim? eps?")),
    **functions_of(functional, "pairwise_distance", Signature("x1 x2 p? eps? keepdim?")),
    **functions_of(functional, "max_pool1d max_pool2d", Signature(POOLING)),
    **functions_of(functional, "avg_pool1d avg_pool2d", Signature(AVERAGING)),
    **functions_of(functional, "lp_pool2d", Signature("input norm_type kernel_size stride? ceil_mode?")),
    **functions_of(
        functional, "adaptive_avg_pool1d adaptive_avg_pool2d", Signature("input output_size", largest=GROWTH)
    ),
    **functions_of(
        functional,
        "adaptive_max_pool1d adaptive_max_pool2d",
        Signature("input output_size return_indices?", largest=GROWTH),
    ),
    **functions_of(functional, "interpolate", Signature(RESIZING, RESAMPLING, largest=GROWTH)),
    **functions_of(functional, "pad", Signature("input pad mode? value?", PADDING, largest=GROWTH)),
    **functions_of(functional, "unfold", Signature("input kernel_size dilation? padding? stride?", largest=GROWTH)),
    **functions_of(
        functional, "fold", Signature("input output_size kernel_size dilation? padding? stride?", largest=GROWTH)
    ),
    **functions_of(functional, "grid_sample", Signature("input grid mode? padding_mode? align_corners?", SAMPLING)),
}
FUNCTIONS: Table[StoredFunction] = Table(_ENTRIES, "FUNCTIONS", lambda function: function.target)


# Names of methods by their parameters after the tensor itself.
_BY_PARAMETERS = {
    "": "abs bool ceil clone cos detach dim double erf exp expm1 float floor half int is_contiguous log log10 log1p "
    "log2 long neg numel nelement reciprocal relu relu_ round rsqrt sigmoid sigmoid_ sign sin sqrt square t tanh tanh_ "
    "trunc logical_not ndimension bfloat16",
    "other": "bmm dot eq floor_divide ge gt le lt matmul maximum minimum mm mul mul_ multiply mv ne outer remainder "
    "true_divide type_as expand_as view_as reshape_as",
    "other alpha?": "add add_ sub sub_ subtract",
    "dim? keepdim? dtype?": "mean sum prod",
    "dim? unbiased? keepdim? correction?": "std var",
    "dim? keepdim?": "max min amax amin argmax",
    "dim dtype?": "softmax log_softmax cumsum",
    "min max?": "clamp clamp_",
    "value": "clamp_min clamp_max",
    "dim0 dim1": "transpose swapaxes swapdims",
    "mask value": "masked_fill masked_fill_",
    "memory_format?": "contiguous",
    "start_dim? end_dim?": "flatten",
    "dim index": "gather index_select select",
    "dim keepdim?": "logsumexp",
    "source destination": "movedim",
    "dim start length": "narrow",
    "shifts dims?": "roll",
    "dim?": "size squeeze unbind",
    "split_size dim?": "split",
    "dtype? device? non_blocking? copy?": "to",
    "dim sizes": "unflatten",
    "dimension size step": "unfold",
    "k dim? largest? sorted?": "topk",
    "dim? descending? stable?": "sort argsort",
    "dim": "unsqueeze",
    "offset? dim1? dim2?": "diagonal",
    "dtype": "type",
    "tensor1 tensor2 value?": "addcmul addcdiv",
}

METHODS: dict[str, Signature] = {
    **{name: Signature(parameters) for parameters, names in _BY_PARAMETERS.items() for name in names.split()},
    # Methods that take a size or a list of dimensions as separate arguments too.
    "view": Signature("size", many=True),
    "reshape": Signature("shape", many=True),
    "permute": Signature("dims", many=True),
    "flip": Signature("dims", many=True),
    "expand": Signature("size", many=True, largest=GROWTH),
    "repeat": Signature("repeats", many=True, largest=GROWTH),
    "tile": Signature("dims", many=True, largest=GROWTH),
    "chunk": Signature("chunks dim?", largest=GROWTH),
    **dict.fromkeys(("div", "div_"), Signature("other rounding_mode?", ("floor", "trunc"))),
    "norm": Signature("p? dim? keepdim? dtype?", ("fro",)),
    "pow": Signature("exponent", largest=EXPONENT),
    "repeat_interleave": Signature("repeats dim?", largest=GROWTH),
}
