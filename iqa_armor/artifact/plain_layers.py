"""The table of stored layers, part two: activations, dropout and changes of shape."""

from __future__ import annotations

from torch import nn

from iqa_armor.artifact.checks import (
    MAX_KERNEL,
    MAX_PADDING,
    any_number,
    channels,
    choice,
    dimension,
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
from iqa_armor.artifact.stored_layer import Fields, StoredLayer, layers_of
from iqa_armor.models.sqish import Sqish

MAX_SCALE = 64

inplace = {"inplace": flag}
side, scale = integer(1, 2**14), number(1 / MAX_SCALE, MAX_SCALE)
upsampled: Fields = {
    "size": optional(either(side, sequence(side, 1, 3))),
    "scale_factor": optional(either(scale, sequence(scale, 1, 3))),
}
modes: Fields = {
    "mode": choice("nearest", "linear", "bilinear", "bicubic", "trilinear"),
    "align_corners": optional(flag),
    "recompute_scale_factor": optional(flag),
}
patches: Fields = {
    "kernel_size": per_axis(2, 1, MAX_KERNEL),
    "dilation": per_axis(2, 1, MAX_KERNEL),
    "padding": per_axis(2, 0, MAX_PADDING),
    "stride": per_axis(2, 1, MAX_KERNEL),
}


def _padding(axes: int) -> Fields:
    return {"padding": sequence(integer(-MAX_PADDING, MAX_PADDING), 2 * axes)}


PLAIN_LAYERS: dict[str, StoredLayer] = {
    **layers_of({}, nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Softmax2d, nn.Identity),
    **layers_of(inplace, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid),
    **layers_of({"dim": optional(dimension)}, nn.Softmax, nn.LogSoftmax, nn.Softmin),
    **layers_of({"alpha": any_number, **inplace}, nn.ELU, nn.CELU),
    **layers_of({"lambd": number(0)}, nn.Softshrink, nn.Hardshrink),
    **layers_of({"approximate": choice("none", "tanh")}, nn.GELU),
    **layers_of({"dim": dimension}, nn.GLU),
    **layers_of({"min_val": any_number, "max_val": any_number, **inplace}, nn.Hardtanh),
    **layers_of({"negative_slope": any_number, **inplace}, nn.LeakyReLU),
    **layers_of({"num_parameters": channels}, nn.PReLU),
    **layers_of({"lower": share, "upper": share, **inplace}, nn.RReLU),
    **layers_of({"beta": any_number, "threshold": any_number}, nn.Softplus),
    **layers_of({"threshold": any_number, "value": any_number, **inplace}, nn.Threshold),
    "iqa_armor.models.sqish.Sqish": StoredLayer(Sqish, dict.fromkeys(("alpha", "beta", "gamma"), any_number)),
    **layers_of({"p": share, **inplace}, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    **layers_of({"p": share, **inplace}, nn.AlphaDropout, nn.FeatureAlphaDropout),
    **layers_of(_padding(1), nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ZeroPad1d, nn.CircularPad1d),
    **layers_of(_padding(2), nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d, nn.CircularPad2d),
    **layers_of({**_padding(1), "value": any_number}, nn.ConstantPad1d),
    **layers_of({**_padding(2), "value": any_number}, nn.ConstantPad2d),
    **layers_of({"groups": channels}, nn.ChannelShuffle),
    **layers_of({"dim": dimension, "eps": epsilon}, nn.CosineSimilarity, keywords=("x1", "x2")),
    **layers_of({"start_dim": dimension, "end_dim": dimension}, nn.Flatten),
    **layers_of({"output_size": per_axis(2, 1, 2**14), **patches}, nn.Fold),
    **layers_of(patches, nn.Unfold),
    **layers_of({"upscale_factor": integer(1, MAX_SCALE)}, nn.PixelShuffle),
    **layers_of({"downscale_factor": integer(1, MAX_SCALE)}, nn.PixelUnshuffle),
    **layers_of({"dim": dimension, "unflattened_size": sequence(integer(-1, 2**22), 1, 6)}, nn.Unflatten),
    **layers_of({**upsampled, **modes}, nn.Upsample),
    **layers_of(upsampled, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d),
}
