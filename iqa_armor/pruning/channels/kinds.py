"""What the functions, methods and layers of a graph do to channels."""

from torch import fx, nn

# Names of functions and methods.
_CALLS = {
    # Value by value: a result belongs to the channel of what it was computed from.
    "elementwise": (
        "add sub subtract mul multiply div truediv divide floordiv iadd isub imul itruediv pow ipow neg pos abs "
        "absolute relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid logsigmoid tanh softplus softsign "
        "hardsigmoid hardswish hardtanh hardshrink tanhshrink softshrink threshold rrelu swish clamp clip clamp_min "
        "clamp_max exp expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sign sin cos erf round floor ceil "
        "trunc nan_to_num maximum minimum where masked_fill lerp addcmul addcdiv dropout alpha_dropout "
        "feature_dropout dropout1d dropout2d dropout3d feature_alpha_dropout float double half bfloat16 to type "
        "type_as contiguous clone detach identity copy rsub eq ne lt le gt ge logical_and logical_or logical_not "
        "isnan isinf isfinite requires_grad_ zeros_like bool long int cpu cuda"
    ),
    # Over places of one channel: axes behind the second are free to change.
    "spatial": (
        "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d lp_pool2d boolean_dispatch interpolate upsample "
        "grid_sample fractional_max_pool2d upsample_bilinear upsample_nearest rfft2 fft2"
    ),
    # Values are only moved, so labels can be moved by the very same call.
    "moves": (
        "view reshape permute transpose t swapaxes swapdims movedim moveaxis flatten unflatten ravel chunk split "
        "tensor_split unbind cat concat concatenate stack hstack vstack getitem select narrow index_select flip "
        "fliplr flipud roll rot90 unsqueeze squeeze expand expand_as view_as reshape_as broadcast_to repeat "
        "repeat_interleave tile pixel_shuffle pixel_unshuffle channel_shuffle unfold pad take_along_dim gather "
        "diagonal split_with_sizes native_channel_shuffle"
    ),
    # Over some axes: a channel that goes would have added 0 to a sum; a mean counts it, which can be put right.
    "sums": "sum norm vector_norm mean",
    # Over some axes, in a way that a missing channel would change.
    "reductions": "std var var_mean std_mean amax amin max min prod logsumexp median argmax argmin any all",
    # The same shape as before, every value depending on all others along one axis.
    "along": "softmax log_softmax softmin cumsum cumprod sort argsort topk normalize logcumsumexp",
    "filled": "ones_like rand_like randn_like full_like empty_like",
    "product": "matmul bmm mm",
    "convolution": "conv1d conv2d conv3d",
    "transposed": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "linear",
    "batch_norm": "batch_norm instance_norm",
    "layer_norm": "layer_norm",
    "group_norm": "group_norm",
    "prelu": "prelu",
    "gated": "glu",
    "attention": "scaled_dot_product_attention",
}
# Names of layers in torch.nn.
_LAYERS = {
    "elementwise": (
        "ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Sigmoid LogSigmoid Tanh Softplus Softsign Hardsigmoid "
        "Hardswish Hardtanh Hardshrink Tanhshrink Softshrink Threshold RReLU Identity Dropout Dropout1d Dropout2d "
        "Dropout3d AlphaDropout FeatureAlphaDropout"
    ),
    "spatial": (
        "AvgPool1d AvgPool2d MaxPool1d MaxPool2d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d "
        "AdaptiveMaxPool2d LPPool2d Upsample UpsamplingBilinear2d UpsamplingNearest2d AvgPool3d MaxPool3d "
        "AdaptiveAvgPool3d"
    ),
    "moves": (
        "Flatten Unflatten PixelShuffle PixelUnshuffle ChannelShuffle Unfold ZeroPad2d ReflectionPad2d "
        "ReplicationPad2d ConstantPad2d CircularPad2d ZeroPad1d ReflectionPad1d ReplicationPad1d ConstantPad1d"
    ),
    "along": "Softmax LogSoftmax",
    "convolution": "Conv1d Conv2d Conv3d",
    "transposed": "ConvTranspose1d ConvTranspose2d ConvTranspose3d",
    "linear": "Linear",
    "batch_norm": "BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d",
    "layer_norm": "LayerNorm",
    "group_norm": "GroupNorm",
    "prelu": "PReLU",
    "gated": "GLU",
}
FUNCTIONS = {name: kind for kind, names in _CALLS.items() for name in names.split()}
MODULES = {getattr(nn, name): kind for kind, names in _LAYERS.items() for name in names.split()}
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
