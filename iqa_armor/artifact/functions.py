"""The functions that a stored graph may call."""

import builtins
import math
import operator
import re
from collections.abc import Callable, Mapping
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
QUANTILES = ("linear", "lower", "higher", "midpoint", "nearest")
LOSS = "input target size_average? reduce? reduction? weight?"
REDUCTIONS = ("none", "mean", "sum")
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


def functions_of(signatures: Mapping[ModuleType, Mapping[str, Signature]]) -> dict[str, StoredFunction]:
    """Return functions by their full names, of signatures by module and by the names, in one text, that share one."""
    return {
        f"{module.__name__}.{name}": StoredFunction(getattr(module, name), signature)
        for module, rows in signatures.items()
        for names, signature in rows.items()
        for name in names.split()
    }


def _pair(*, literals: bool = False, on_node: bool = False, largest: int = 2**31 - 1) -> Signature:
    return Signature("a b", positional_only=True, literals=literals, on_node=on_node, largest=largest)


_SIGNATURES: dict[ModuleType, dict[str, Signature]] = {
    builtins: {
        "getattr": Signature("object name", ATTRIBUTES, positional_only=True, on_node=True, needs_text=True),
    },
    operator: {
        "getitem": _pair(literals=True, on_node=True),
        # Tuples may be joined (`x.shape[:2] + (-1,)`) but not repeated.
        "add": _pair(literals=True),
        "pow": _pair(largest=EXPONENT),
        "sub mul truediv floordiv mod matmul eq ne lt le gt ge and_ or_": _pair(),
        "iadd isub imul itruediv": _pair(on_node=True),
        "neg pos abs invert": Signature("a", positional_only=True, literals=False),
    },
    math: {
        "ceil floor sqrt log trunc": Signature("x", positional_only=True, literals=False),
    },
    torch: {
        "abs ceil clone conj cos detach erf exp expm1 floor log log10 log1p log2": Signature("input", literals=False),
        "acos asin atan cosh frac isfinite isinf isnan sgn sinh tan": Signature("input", literals=False),
        "logical_not neg numel reciprocal relu round rsqrt sigmoid sign sin sqrt": Signature("input", literals=False),
        "square t tanh trunc": Signature("input", literals=False),
        "bmm dot eq floor_divide ge gt le lt matmul maximum minimum mm mul": Signature("input other", literals=False),
        "multiply mv ne outer remainder true_divide": Signature("input other", literals=False),
        "atan2 fmod hypot logical_and logical_or xlogy": Signature("input other", literals=False),
        "add sub subtract rsub": Signature("input other alpha?", literals=False),
        "div": Signature("input other rounding_mode?", ("floor", "trunc"), literals=False),
        "pow": Signature("input exponent", largest=EXPONENT, literals=False),
        "clamp": Signature("input min? max?"),
        "diagonal": Signature("input offset? dim1? dim2?"),
        "tril triu": Signature("input diagonal?"),
        "rot90": Signature("input k? dims?"),
        "nan_to_num": Signature("input nan? posinf? neginf?"),
        "lerp": Signature("input end weight"),
        "addcmul addcdiv": Signature("input tensor1 tensor2 value?"),
        "where": Signature("condition input other"),
        "masked_fill": Signature("input mask value"),
        "addmm": Signature("input mat1 mat2 beta? alpha?"),
        "baddbmm": Signature("input batch1 batch2 beta? alpha?"),
        "einsum": Signature("equation operand", pattern=EQUATION, many=True, positional_only=True),
        "zeros_like ones_like": Signature("input dtype? device?"),
        "arange": Signature("start end? step? dtype? device?", largest=GROWTH),
        "zeros ones": Signature("size dtype? device?", many=True, largest=GROWTH),
        "full": Signature("size fill_value dtype? device?", largest=GROWTH),
        "linspace": Signature("start end steps dtype? device?", largest=GROWTH),
        "meshgrid": Signature("tensors indexing?", ("ij", "xy"), many=True),
        "full_like": Signature("input fill_value dtype?"),
        "cat concat stack": Signature("tensors dim?"),
        "hstack vstack dstack column_stack": Signature("tensors"),
        "chunk": Signature("input chunks dim?", largest=GROWTH),
        "split": Signature("tensor split_size_or_sections dim?"),
        "unbind squeeze unsqueeze": Signature("input dim?"),
        "flatten": Signature("input start_dim? end_dim?"),
        "unflatten": Signature("input dim sizes"),
        "reshape": Signature("input shape"),
        "permute flip": Signature("input dims"),
        "transpose": Signature("input dim0 dim1"),
        "swapaxes": Signature("input axis0 axis1"),
        "movedim": Signature("input source destination"),
        "narrow": Signature("input dim start length"),
        "select index_select gather": Signature("input dim index"),
        "roll": Signature("input shifts dims?"),
        "tile": Signature("input dims", largest=GROWTH),
        "repeat_interleave": Signature("input repeats dim?", largest=GROWTH),
        "channel_shuffle": Signature("input groups"),
        "pixel_shuffle": Signature("input upscale_factor"),
        "pixel_unshuffle": Signature("input downscale_factor"),
        "mean sum prod": Signature("input dim? keepdim? dtype?"),
        "std var std_mean var_mean": Signature("input dim? unbiased? keepdim? correction?"),
        "max min amax amin aminmax argmax argmin median nanmedian any all": Signature("input dim? keepdim?"),
        "count_nonzero": Signature("input dim?"),
        "kthvalue": Signature("input k dim? keepdim?"),
        "quantile nanquantile": Signature("input q dim? keepdim? interpolation?", QUANTILES),
        "cummax cummin": Signature("input dim"),
        "topk": Signature("input k dim? largest? sorted?", largest=GROWTH),
        "sort argsort": Signature("input dim? descending? stable?"),
        "logsumexp": Signature("input dim keepdim?"),
        "cumsum cumprod softmax log_softmax": Signature("input dim dtype?"),
        "norm": Signature("input p? dim? keepdim? dtype?", ("fro",)),
        "rand_like randn_like": Signature("input dtype? device?"),
        "angle real imag view_as_real": Signature("input", literals=False),
    },
    torch.functional: {
        "cdist": Signature("x1 x2 p? compute_mode?", DISTANCES),
        "tensordot": Signature("a b dims?"),
    },
    iqa_armor.graph.interpret: {
        "with_item": Signature("tensor index value", literals=True),
        "for_each": Signature("value images", literals=False),
    },
    torch._C._nn: {
        "one_hot": Signature("tensor num_classes", largest=GROWTH),
    },
    torch.fft: {
        "fft ifft rfft irfft": Signature("input n? dim? norm?", FOURIER, largest=GROWTH),
        "fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn": Signature("input s? dim? norm?", FOURIER, largest=GROWTH),
        "fftshift ifftshift": Signature("input dim?"),
    },
    torch.linalg: {
        "norm": Signature("A ord? dim? keepdim?", ("fro", "nuc")),
        "vector_norm": Signature("x ord? dim? keepdim?"),
    },
    functional: {
        "relu relu6 selu silu mish hardswish hardsigmoid": Signature("input inplace?"),
        "relu_ sigmoid tanh logsigmoid softsign tanhshrink": Signature("input"),
        "elu celu": Signature("input alpha? inplace?"),
        "hardshrink softshrink": Signature("input lambd?"),
        # fx itself passes `_stacklevel` on from these three.
        "softmax log_softmax softmin": Signature("input dim? _stacklevel? dtype?"),
        "leaky_relu": Signature("input negative_slope? inplace?"),
        "hardtanh": Signature("input min_val? max_val? inplace?"),
        "softplus": Signature("input beta? threshold?"),
        "threshold": Signature("input threshold? value? inplace?"),
        "prelu": Signature("input weight?"),
        "rrelu": Signature("input lower? upper? training? inplace?"),
        "glu": Signature("input dim?"),
        "gelu": Signature("input approximate?", ("none", "tanh")),
        "dropout dropout1d dropout2d dropout3d alpha_dropout": Signature("input p? training? inplace?"),
        "feature_alpha_dropout": Signature("input p? training? inplace?"),
        "linear": Signature("input weight bias?"),
        "bilinear": Signature("input1 input2 weight bias?"),
        "conv1d conv2d": Signature(CONVOLUTION, ("same", "valid")),
        "conv_transpose1d conv_transpose2d": Signature(TRANSPOSED, largest=GROWTH),
        "embedding": Signature("input weight padding_idx? max_norm? norm_type? scale_grad_by_freq? sparse?"),
        "scaled_dot_product_attention": Signature("query key value attn_mask? dropout_p? is_causal? scale?"),
        "normalize": Signature("input p? dim? eps?"),
        "layer_norm": Signature("input normalized_shape weight? bias? eps?"),
        "rms_norm": Signature("input normalized_shape weight? eps?"),
        "group_norm": Signature("input num_groups weight? bias? eps?"),
        "batch_norm": Signature(NORMALIZING),
        "instance_norm": Signature("input running_mean? running_var? weight? bias? use_input_stats? momentum? eps?"),
        "local_response_norm": Signature("input size alpha? beta? k?", largest=GROWTH),
        "l1_loss mse_loss": Signature(LOSS, REDUCTIONS),
        "smooth_l1_loss": Signature(f"{LOSS} beta?", REDUCTIONS),
        "affine_grid": Signature("theta size align_corners?", largest=GROWTH),
        "cosine_similarity": Signature("x1 x2 dim? eps?"),
        "pairwise_distance": Signature("x1 x2 p? eps? keepdim?"),
        "max_pool1d max_pool2d max_pool2d_with_indices": Signature(POOLING),
        "avg_pool1d avg_pool2d": Signature(AVERAGING),
        "lp_pool2d": Signature("input norm_type kernel_size stride? ceil_mode?"),
        "adaptive_avg_pool1d adaptive_avg_pool2d": Signature("input output_size", largest=GROWTH),
        "adaptive_max_pool1d adaptive_max_pool2d": Signature("input output_size return_indices?", largest=GROWTH),
        "interpolate": Signature(RESIZING, RESAMPLING, largest=GROWTH),
        "pad": Signature("input pad mode? value?", PADDING, largest=GROWTH),
        "unfold": Signature("input kernel_size dilation? padding? stride?", largest=GROWTH),
        "fold": Signature("input output_size kernel_size dilation? padding? stride?", largest=GROWTH),
        "grid_sample": Signature("input grid mode? padding_mode? align_corners?", SAMPLING),
    },
}
FUNCTIONS: Table[StoredFunction] = Table(functions_of(_SIGNATURES), "FUNCTIONS", lambda function: function.target)
