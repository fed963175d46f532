"""The functions of torch.nn.functional that a stored graph may call."""

from __future__ import annotations

from torch.nn import functional

from iqa_armor.artifact.calls import GROWTH, Call

RESAMPLING = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area")
PADDING = ("constant", "reflect", "replicate", "circular")
CONVOLUTION = "input weight bias stride padding dilation groups"
TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
POOLING = "input kernel_size stride padding dilation ceil_mode return_indices"
AVERAGING = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"

ACTIVATIONS: dict[str, Call] = {
    f"torch.nn.functional.{name}": Call(getattr(functional, name), parameters)
    for name, parameters in {
        "relu": "input inplace",
        "relu_": "input",
        "relu6": "input inplace",
        "leaky_relu": "input negative_slope inplace",
        "elu": "input alpha inplace",
        "celu": "input alpha inplace",
        "selu": "input inplace",
        "silu": "input inplace",
        "mish": "input inplace",
        "hardswish": "input inplace",
        "hardsigmoid": "input inplace",
        "hardtanh": "input min_val max_val inplace",
        "sigmoid": "input",
        "tanh": "input",
        "logsigmoid": "input",
        "softplus": "input beta threshold",
        "softsign": "input",
        "tanhshrink": "input",
        "hardshrink": "input lambd",
        "softshrink": "input lambd",
        "threshold": "input threshold value inplace",
        "prelu": "input weight",
        "rrelu": "input lower upper training inplace",
        "glu": "input dim",
        # fx itself passes `_stacklevel` on from these three.
        "softmax": "input dim _stacklevel dtype",
        "log_softmax": "input dim _stacklevel dtype",
        "softmin": "input dim _stacklevel dtype",
    }.items()
}

DROPOUT: dict[str, Call] = {
    f"torch.nn.functional.{name}": Call(getattr(functional, name), "input p training inplace")
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
}

POOLS: dict[str, Call] = {
    "torch.nn.functional.max_pool1d": Call(functional.max_pool1d, POOLING, least=2),
    "torch.nn.functional.max_pool2d": Call(functional.max_pool2d, POOLING, least=2),
    "torch.nn.functional.avg_pool1d": Call(functional.avg_pool1d, AVERAGING, least=2),
    "torch.nn.functional.avg_pool2d": Call(functional.avg_pool2d, AVERAGING, least=2),
    "torch.nn.functional.lp_pool2d": Call(
        functional.lp_pool2d, "input norm_type kernel_size stride ceil_mode", least=3
    ),
    **{
        f"torch.nn.functional.{name}": Call(getattr(functional, name), "input output_size", least=2, largest=GROWTH)
        for name in ("adaptive_avg_pool1d", "adaptive_avg_pool2d")
    },
    **{
        f"torch.nn.functional.{name}": Call(
            getattr(functional, name), "input output_size return_indices", least=2, largest=GROWTH
        )
        for name in ("adaptive_max_pool1d", "adaptive_max_pool2d")
    },
}

LINEAR: dict[str, Call] = {
    "torch.nn.functional.linear": Call(functional.linear, "input weight bias", least=2),
    "torch.nn.functional.bilinear": Call(functional.bilinear, "input1 input2 weight bias", least=3),
    "torch.nn.functional.conv1d": Call(functional.conv1d, CONVOLUTION, ("same", "valid"), least=2),
    "torch.nn.functional.conv2d": Call(functional.conv2d, CONVOLUTION, ("same", "valid"), least=2),
    "torch.nn.functional.conv_transpose1d": Call(functional.conv_transpose1d, TRANSPOSED, least=2, largest=GROWTH),
    "torch.nn.functional.conv_transpose2d": Call(functional.conv_transpose2d, TRANSPOSED, least=2, largest=GROWTH),
    "torch.nn.functional.embedding": Call(
        functional.embedding, "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse", least=2
    ),
    "torch.nn.functional.scaled_dot_product_attention": Call(
        functional.scaled_dot_product_attention,
        "query key value attn_mask dropout_p is_causal scale",
        least=3,
    ),
}

NORMS: dict[str, Call] = {
    "torch.nn.functional.normalize": Call(functional.normalize, "input p dim eps"),
    "torch.nn.functional.layer_norm": Call(functional.layer_norm, "input normalized_shape weight bias eps", least=2),
    "torch.nn.functional.rms_norm": Call(functional.rms_norm, "input normalized_shape weight eps", least=2),
    "torch.nn.functional.group_norm": Call(functional.group_norm, "input num_groups weight bias eps", least=2),
    "torch.nn.functional.batch_norm": Call(
        functional.batch_norm, "input running_mean running_var weight bias training momentum eps", least=3
    ),
    "torch.nn.functional.instance_norm": Call(
        functional.instance_norm, "input running_mean running_var weight bias use_input_stats momentum eps"
    ),
    "torch.nn.functional.local_response_norm": Call(
        functional.local_response_norm, "input size alpha beta k", least=2, largest=GROWTH
    ),
    "torch.nn.functional.cosine_similarity": Call(functional.cosine_similarity, "x1 x2 dim eps", least=2),
    "torch.nn.functional.pairwise_distance": Call(functional.pairwise_distance, "x1 x2 p eps keepdim", least=2),
}

SPATIAL: dict[str, Call] = {
    "torch.nn.functional.interpolate": Call(
        functional.interpolate,
        "input size scale_factor mode align_corners recompute_scale_factor antialias",
        RESAMPLING,
        least=2,
        largest=GROWTH,
    ),
    "torch.nn.functional.pad": Call(functional.pad, "input pad mode value", PADDING, least=2, largest=GROWTH),
    "torch.nn.functional.unfold": Call(
        functional.unfold, "input kernel_size dilation padding stride", least=2, largest=GROWTH
    ),
    "torch.nn.functional.fold": Call(
        functional.fold, "input output_size kernel_size dilation padding stride", least=3, largest=GROWTH
    ),
    "torch.nn.functional.grid_sample": Call(
        functional.grid_sample,
        "input grid mode padding_mode align_corners",
        ("bilinear", "nearest", "bicubic", "zeros", "border", "reflection"),
        least=2,
    ),
}

GELU: dict[str, Call] = {"torch.nn.functional.gelu": Call(functional.gelu, "input approximate", ("none", "tanh"))}

FUNCTIONAL: dict[str, Call] = {**ACTIVATIONS, **GELU, **DROPOUT, **POOLS, **LINEAR, **NORMS, **SPATIAL}
