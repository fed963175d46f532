"""The functions of torch and of Python's operators that a stored graph may call."""

from __future__ import annotations

import operator
import re

import torch

from iqa_armor.artifact.calls import EXPONENT, GROWTH, Call
from iqa_armor.artifact.functional import FUNCTIONAL
from iqa_armor.artifact.table import Table

EQUATION = re.compile(r"[a-zA-Z,. ]{1,64}(->[a-zA-Z. ]{0,32})?")
# Attributes of a tensor that `getattr` may read.
ATTRIBUTES = ("shape", "ndim", "dtype", "device", "T", "mT", "is_cuda")

OPERATORS: dict[str, Call] = {
    "builtins.getattr": Call(
        getattr, "object name", ATTRIBUTES, positional_only=True, least=2, on_node=True, needs_text=True
    ),
    "operator.getitem": Call(operator.getitem, "value index", positional_only=True, least=2, on_node=True),
    # Tuples may be joined (`x.shape[:2] + (-1,)`) but not repeated.
    "operator.add": Call(operator.add, "a b", positional_only=True, least=2),
    "operator.pow": Call(operator.pow, "a b", positional_only=True, least=2, largest=EXPONENT, literals=False),
    **{
        f"operator.{function.__name__}": Call(function, "a b", positional_only=True, least=2, literals=False)
        for function in (
            operator.sub,
            operator.mul,
            operator.truediv,
            operator.floordiv,
            operator.mod,
            operator.matmul,
            operator.eq,
            operator.ne,
            operator.lt,
            operator.le,
            operator.gt,
            operator.ge,
            operator.and_,
            operator.or_,
        )
    },
    **{
        f"operator.{function.__name__}": Call(
            function, "a b", positional_only=True, least=2, literals=False, on_node=True
        )
        for function in (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    },
    **{
        f"operator.{function.__name__}": Call(function, "a", positional_only=True, literals=False)
        for function in (operator.neg, operator.pos, operator.abs, operator.invert)
    },
}

# One tensor in, the same number of elements out, no options.
POINTWISE: dict[str, Call] = {
    f"torch.{function.__name__}": Call(function, "input", literals=False)
    for function in (
        torch.abs,
        torch.ceil,
        torch.clone,
        torch.conj,
        torch.cos,
        torch.detach,
        torch.erf,
        torch.exp,
        torch.expm1,
        torch.floor,
        torch.log,
        torch.log10,
        torch.log1p,
        torch.log2,
        torch.logical_not,
        torch.neg,
        torch.numel,
        torch.reciprocal,
        torch.relu,
        torch.round,
        torch.rsqrt,
        torch.sigmoid,
        torch.sign,
        torch.sin,
        torch.sqrt,
        torch.square,
        torch.t,
        torch.tanh,
        torch.trunc,
    )
}

# Two tensors, or a tensor and a number.
PAIRWISE: dict[str, Call] = {
    f"torch.{function.__name__}": Call(function, "input other", least=2, literals=False)
    for function in (
        torch.bmm,
        torch.dot,
        torch.eq,
        torch.floor_divide,
        torch.ge,
        torch.gt,
        torch.le,
        torch.lt,
        torch.matmul,
        torch.maximum,
        torch.minimum,
        torch.mm,
        torch.mul,
        torch.multiply,
        torch.mv,
        torch.ne,
        torch.outer,
        torch.remainder,
        torch.true_divide,
    )
}

SHAPING: dict[str, Call] = {
    "torch.cat": Call(torch.cat, "tensors dim"),
    "torch.concat": Call(torch.concat, "tensors dim"),
    "torch.stack": Call(torch.stack, "tensors dim"),
    "torch.chunk": Call(torch.chunk, "input chunks dim", least=2, largest=GROWTH),
    "torch.split": Call(torch.split, "tensor split_size_or_sections dim", least=2),
    "torch.unbind": Call(torch.unbind, "input dim"),
    "torch.flatten": Call(torch.flatten, "input start_dim end_dim"),
    "torch.unflatten": Call(torch.unflatten, "input dim sizes", least=3),
    "torch.reshape": Call(torch.reshape, "input shape", least=2),
    "torch.permute": Call(torch.permute, "input dims", least=2),
    "torch.transpose": Call(torch.transpose, "input dim0 dim1", least=3),
    "torch.swapaxes": Call(torch.swapaxes, "input axis0 axis1", least=3),
    "torch.movedim": Call(torch.movedim, "input source destination", least=3),
    "torch.squeeze": Call(torch.squeeze, "input dim"),
    "torch.unsqueeze": Call(torch.unsqueeze, "input dim", least=2),
    "torch.narrow": Call(torch.narrow, "input dim start length", least=4),
    "torch.select": Call(torch.select, "input dim index", least=3),
    "torch.index_select": Call(torch.index_select, "input dim index", least=3),
    "torch.gather": Call(torch.gather, "input dim index", least=3),
    "torch.flip": Call(torch.flip, "input dims", least=2),
    "torch.roll": Call(torch.roll, "input shifts dims", least=2),
    "torch.tile": Call(torch.tile, "input dims", least=2, largest=GROWTH),
    "torch.repeat_interleave": Call(torch.repeat_interleave, "input repeats dim", least=2, largest=GROWTH),
    "torch.channel_shuffle": Call(torch.channel_shuffle, "input groups", least=2),
    "torch.pixel_shuffle": Call(torch.pixel_shuffle, "input upscale_factor", least=2),
    "torch.pixel_unshuffle": Call(torch.pixel_unshuffle, "input downscale_factor", least=2),
}

REDUCTIONS: dict[str, Call] = {
    "torch.mean": Call(torch.mean, "input dim keepdim dtype"),
    "torch.sum": Call(torch.sum, "input dim keepdim dtype"),
    "torch.prod": Call(torch.prod, "input dim keepdim dtype"),
    "torch.std": Call(torch.std, "input dim unbiased keepdim correction"),
    "torch.var": Call(torch.var, "input dim unbiased keepdim correction"),
    "torch.std_mean": Call(torch.std_mean, "input dim unbiased keepdim correction"),
    "torch.var_mean": Call(torch.var_mean, "input dim unbiased keepdim correction"),
    "torch.max": Call(torch.max, "input dim keepdim"),
    "torch.min": Call(torch.min, "input dim keepdim"),
    "torch.amax": Call(torch.amax, "input dim keepdim"),
    "torch.amin": Call(torch.amin, "input dim keepdim"),
    "torch.argmax": Call(torch.argmax, "input dim keepdim"),
    "torch.cumsum": Call(torch.cumsum, "input dim dtype", least=2),
    "torch.logsumexp": Call(torch.logsumexp, "input dim keepdim", least=2),
    "torch.norm": Call(torch.norm, "input p dim keepdim dtype", ("fro",)),
    "torch.linalg.norm": Call(torch.linalg.norm, "A ord dim keepdim", ("fro", "nuc")),
    "torch.linalg.vector_norm": Call(torch.linalg.vector_norm, "x ord dim keepdim"),
    "torch.softmax": Call(torch.softmax, "input dim dtype", least=2),
    "torch.log_softmax": Call(torch.log_softmax, "input dim dtype", least=2),
}

ARITHMETIC: dict[str, Call] = {
    "torch.add": Call(torch.add, "input other alpha", least=2, literals=False),
    "torch.sub": Call(torch.sub, "input other alpha", least=2, literals=False),
    "torch.subtract": Call(torch.subtract, "input other alpha", least=2, literals=False),
    "torch.rsub": Call(torch.rsub, "input other alpha", least=2, literals=False),
    "torch.div": Call(torch.div, "input other rounding_mode", ("floor", "trunc"), least=2, literals=False),
    "torch.pow": Call(torch.pow, "input exponent", least=2, largest=EXPONENT, literals=False),
    "torch.clamp": Call(torch.clamp, "input min max"),
    "torch.lerp": Call(torch.lerp, "input end weight", least=3),
    "torch.where": Call(torch.where, "condition input other", least=3),
    "torch.masked_fill": Call(torch.masked_fill, "input mask value", least=3),
    "torch.addmm": Call(torch.addmm, "input mat1 mat2 beta alpha", least=3),
    "torch.baddbmm": Call(torch.baddbmm, "input batch1 batch2 beta alpha", least=3),
    "torch.einsum": Call(torch.einsum, "equation", pattern=EQUATION, many=True, positional_only=True, least=2),
    "torch.zeros_like": Call(torch.zeros_like, "input dtype"),
    "torch.ones_like": Call(torch.ones_like, "input dtype"),
    "torch.full_like": Call(torch.full_like, "input fill_value dtype", least=2),
}

FUNCTIONS: Table[Call] = Table(
    {**OPERATORS, **POINTWISE, **PAIRWISE, **SHAPING, **REDUCTIONS, **ARITHMETIC, **FUNCTIONAL},
    "FUNCTIONS",
    lambda call: call.target,
)
