"""What the functions, methods and layers of a graph do to channels."""

from torch import fx, nn


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Value by value: a result belongs to the channel of what it was computed from.
ELEMENTWISE = _names(
    "add sub subtract mul multiply div truediv divide floordiv iadd isub imul itruediv pow ipow neg pos abs "
    "absolute relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid logsigmoid tanh softplus softsign "
    "hardsigmoid hardswish hardtanh hardshrink tanhshrink softshrink threshold rrelu swish clamp clip clamp_min "
    "clamp_max exp expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sign sin cos erf round floor ceil "
    "trunc nan_to_num maximum minimum where masked_fill lerp addcmul addcdiv dropout alpha_dropout "
    "feature_dropout dropout1d dropout2d dropout3d feature_alpha_dropout float double half bfloat16 to type "
    "type_as contiguous clone detach identity copy rsub eq ne lt le gt ge logical_and logical_or logical_not "
    "isnan isinf isfinite requires_grad_ zeros_like ones_like rand_like randn_like bool long int cpu cuda"
)
# Over places of one channel: axes behind the second are free to change.
SPATIAL = _names(
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d lp_pool2d boolean_dispatch interpolate upsample "
    "grid_sample fractional_max_pool2d upsample_bilinear upsample_nearest rfft2 fft2"
)
# Values are only moved, so labels can be moved by the very same call.
MOVES = _names(
    "view reshape permute transpose t swapaxes swapdims movedim moveaxis flatten unflatten ravel chunk split "
    "tensor_split unbind cat concat concatenate stack hstack vstack getitem select narrow index_select flip "
    "fliplr flipud roll rot90 unsqueeze squeeze expand expand_as view_as reshape_as broadcast_to repeat "
    "repeat_interleave tile pixel_shuffle pixel_unshuffle channel_shuffle unfold pad take_along_dim gather "
    "diagonal split_with_sizes native_channel_shuffle"
)
# Over some axes: a channel that goes would have added 0 to a sum; a mean counts it, which can be put right.
SUMS = _names("sum norm vector_norm mean")
# Over some axes, in a way that a missing channel would change.
REDUCTIONS = _names("std var var_mean std_mean amax amin max min prod logsumexp median argmax argmin any all")
# The same shape as before, every value depending on all others along one axis.
ALONG = _names("softmax log_softmax softmin cumsum cumprod sort argsort topk normalize logcumsumexp")
PRODUCTS = _names("matmul bmm mm")

MODULES: dict[type[nn.Module], str] = {
    **dict.fromkeys(
        (
            *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid),
            *(nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
            *(nn.Hardshrink, nn.Tanhshrink, nn.Softshrink, nn.Threshold, nn.RReLU, nn.Identity),
            *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        ),
        "elementwise",
    ),
    **dict.fromkeys(
        (
            *(nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
            *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Upsample, nn.UpsamplingBilinear2d),
            *(nn.UpsamplingNearest2d, nn.AvgPool3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
        ),
        "spatial",
    ),
    **dict.fromkeys(
        (
            *(nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold),
            *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.CircularPad2d),
            *(nn.ZeroPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ConstantPad1d),
        ),
        "moves",
    ),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), "convolution"),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "transposed"),
    nn.Linear: "linear",
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d), "batch_norm"
    ),
    nn.LayerNorm: "layer_norm",
    nn.GroupNorm: "group_norm",
    nn.PReLU: "prelu",
    nn.Softmax: "along",
    nn.LogSoftmax: "along",
    nn.GLU: "gated",
}
FUNCTIONS: dict[str, str] = {
    **dict.fromkeys(ELEMENTWISE, "elementwise"),
    **dict.fromkeys(SPATIAL, "spatial"),
    **dict.fromkeys(MOVES, "moves"),
    **dict.fromkeys(SUMS, "sums"),
    **dict.fromkeys(REDUCTIONS, "reductions"),
    **dict.fromkeys(ALONG, "along"),
    **dict.fromkeys(PRODUCTS, "product"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "convolution"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "transposed"),
    "linear": "linear",
    "batch_norm": "batch_norm",
    "instance_norm": "batch_norm",
    "layer_norm": "layer_norm",
    "group_norm": "group_norm",
    "prelu": "prelu",
    "glu": "gated",
    "scaled_dot_product_attention": "attention",
}

# Layers of other packages, which need not be installed.
BY_NAME = {"StochasticDepth": "elementwise", "DropPath": "elementwise", "Sqish": "elementwise"}


def name_of(node: fx.Node) -> str:
    """Return the plain name of what a node calls: "add" for `operator.iadd`'s, `torch.add`'s and `.add_()`'s."""
    name = str(getattr(node.target, "__name__", node.target))
    plain = name.rstrip("_") if not name.startswith("__") else name.strip("_")
    return plain.removeprefix("_")


def kind_of(node: fx.Node, layer: nn.Module | None) -> str:
    """Return what a call does to channels; "unknown" where nothing is known of it."""
    if layer is not None:
        return MODULES.get(type(layer)) or BY_NAME.get(type(layer).__name__, "unknown")
    if node.target is getattr:  # of a tensor: its transpose
        return "moves"
    return FUNCTIONS.get(name_of(node), "unknown")
