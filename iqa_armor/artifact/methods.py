"""The Tensor methods that a stored graph may call."""

from __future__ import annotations

from iqa_armor.artifact.calls import EXPONENT, GROWTH, Call

# Methods by their parameters after the tensor itself; `least` counts those that have no default.
_SIGNATURES: dict[str, tuple[str, int]] = {
    **dict.fromkeys(
        (
            *(
                "abs",
                "bool",
                "ceil",
                "clone",
                "cos",
                "detach",
                "dim",
                "double",
                "erf",
                "exp",
                "expm1",
                "float",
            ),
            *(
                "floor",
                "half",
                "int",
                "is_contiguous",
                "log",
                "log10",
                "log1p",
                "log2",
                "long",
                "neg",
                "numel",
            ),
            *(
                "nelement",
                "reciprocal",
                "relu",
                "relu_",
                "round",
                "rsqrt",
                "sigmoid",
                "sigmoid_",
                "sign",
                "sin",
            ),
            *("sqrt", "square", "t", "tanh", "tanh_", "trunc", "logical_not", "ndimension", "bfloat16"),
        ),
        ("", 0),
    ),
    **dict.fromkeys(
        (
            *(
                "bmm",
                "dot",
                "eq",
                "floor_divide",
                "ge",
                "gt",
                "le",
                "lt",
                "matmul",
                "maximum",
                "minimum",
                "mm",
            ),
            *("mul", "mul_", "multiply", "mv", "ne", "outer", "remainder", "true_divide", "type_as"),
            *("expand_as", "view_as", "reshape_as"),
        ),
        ("other", 1),
    ),
    **dict.fromkeys(("add", "add_", "sub", "sub_", "subtract"), ("other alpha", 1)),
    **dict.fromkeys(("mean", "sum", "prod"), ("dim keepdim dtype", 0)),
    **dict.fromkeys(("std", "var"), ("dim unbiased keepdim correction", 0)),
    **dict.fromkeys(("max", "min", "amax", "amin", "argmax"), ("dim keepdim", 0)),
    **dict.fromkeys(("softmax", "log_softmax"), ("dim dtype", 1)),
    **dict.fromkeys(("clamp", "clamp_"), ("min max", 1)),
    **dict.fromkeys(("clamp_min", "clamp_max"), ("value", 1)),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), ("dim0 dim1", 2)),
    **dict.fromkeys(("masked_fill", "masked_fill_"), ("mask value", 2)),
    "contiguous": ("memory_format", 0),
    "cumsum": ("dim dtype", 1),
    "flatten": ("start_dim end_dim", 0),
    "gather": ("dim index", 2),
    "index_select": ("dim index", 2),
    "logsumexp": ("dim keepdim", 1),
    "movedim": ("source destination", 2),
    "narrow": ("dim start length", 3),
    "roll": ("shifts dims", 1),
    "select": ("dim index", 2),
    "size": ("dim", 0),
    "split": ("split_size dim", 1),
    "squeeze": ("dim", 0),
    "to": ("dtype", 1),
    "unbind": ("dim", 0),
    "unflatten": ("dim sizes", 2),
    "unsqueeze": ("dim", 1),
    "view": ("size", 1),
}

# Methods that take a size or a list of dimensions as separate arguments too.
_MANY: dict[str, Call] = {
    "view": Call("view", "size", many=True),
    "reshape": Call("reshape", "shape", many=True),
    "permute": Call("permute", "dims", many=True),
    "flip": Call("flip", "dims", many=True),
    "expand": Call("expand", "size", many=True, largest=GROWTH),
    "repeat": Call("repeat", "repeats", many=True, largest=GROWTH),
    "tile": Call("tile", "dims", many=True, largest=GROWTH),
}

METHODS: dict[str, Call] = {
    **{name: Call(name, names, least=least) for name, (names, least) in _SIGNATURES.items()},
    **_MANY,
    "chunk": Call("chunk", "chunks dim", largest=GROWTH),
    "div": Call("div", "other rounding_mode", ("floor", "trunc")),
    "div_": Call("div_", "other rounding_mode", ("floor", "trunc")),
    "norm": Call("norm", "p dim keepdim dtype", ("fro",), least=0),
    "pow": Call("pow", "exponent", largest=EXPONENT),
    "repeat_interleave": Call("repeat_interleave", "repeats dim", largest=GROWTH),
}
