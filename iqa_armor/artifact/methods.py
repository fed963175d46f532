"""The methods of tensors that a stored graph may call."""

from iqa_armor.artifact.functions import QUANTILES
from iqa_armor.artifact.signatures import EXPONENT, GROWTH, Signature

# Names of methods by their parameters after the tensor itself.
_BY_PARAMETERS = {
    "": "abs acos asin atan bool ceil clone cos cosh detach dim double erf exp expm1 float floor frac half int "
    "is_contiguous isfinite isinf isnan log log10 log1p log2 long neg numel nelement reciprocal relu relu_ round rsqrt "
    "sgn sigmoid sigmoid_ sign sin sinh sqrt square t tan tanh tanh_ trunc logical_not ndimension bfloat16 zero_",
    "other": "atan2 bmm copy_ dot eq floor_divide fmod ge gt hypot le logical_and logical_or lt matmul maximum minimum "
    "mm mul mul_ multiply mv ne outer remainder true_divide type_as expand_as view_as reshape_as xlogy",
    "other alpha?": "add add_ sub sub_ subtract",
    "dim? keepdim? dtype?": "mean sum prod",
    "dim? unbiased? keepdim? correction?": "std var",
    "dim? keepdim?": "max min amax amin aminmax argmax argmin median nanmedian any all",
    "k dim? keepdim?": "kthvalue",
    "dim": "cummax cummin unsqueeze",
    "dim dtype?": "softmax log_softmax cumsum cumprod",
    "end weight": "lerp",
    "condition other": "where",
    "diagonal?": "tril triu",
    "k? dims?": "rot90",
    "nan? posinf? neginf?": "nan_to_num",
    "min max?": "clamp clamp_",
    "value": "clamp_min clamp_max fill_",
    "dim0 dim1": "transpose swapaxes swapdims",
    "mask value": "masked_fill masked_fill_",
    "memory_format?": "contiguous",
    "start_dim? end_dim?": "flatten",
    "dim index": "gather index_select select",
    "dim keepdim?": "logsumexp",
    "source destination": "movedim",
    "dim start length": "narrow",
    "shifts dims?": "roll",
    "dim?": "size squeeze unbind count_nonzero",
    "split_size dim?": "split",
    "dtype? device? non_blocking? copy?": "to",
    "dim sizes": "unflatten",
    "dimension size step": "unfold",
    "k dim? largest? sorted?": "topk",
    "dim? descending? stable?": "sort argsort",
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
    **dict.fromkeys(("quantile", "nanquantile"), Signature("q dim? keepdim? interpolation?", QUANTILES)),
    "pow": Signature("exponent", largest=EXPONENT),
    "repeat_interleave": Signature("repeats dim?", largest=GROWTH),
}
