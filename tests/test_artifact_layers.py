"""Every class of the layer table: constructor arguments read from a layer rebuild the same layer."""

import json
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.misc import Permute

from iqa_armor.artifact.checks import FormatError
from iqa_armor.artifact.functions import FUNCTIONS, METHODS
from iqa_armor.artifact.layers import LAYERS
from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.models.sqish import Sqish
from iqa_armor.ortho.block import RobustBlock, TokenBlock

# At least one layer of each class, with arguments that are not the defaults.
EXAMPLES = [
    nn.Conv1d(2, 4, 3, bias=False),
    nn.Conv2d(4, 8, (3, 5), stride=2, padding=(1, 2), dilation=2, groups=2, padding_mode="circular"),
    nn.Conv2d(4, 8, 3, padding="same"),
    nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1),
    nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False),
    nn.BatchNorm1d(3, eps=1e-3),
    nn.BatchNorm2d(3, momentum=None, affine=False),
    nn.BatchNorm2d(3, track_running_stats=False),
    nn.InstanceNorm1d(3, affine=True),
    nn.InstanceNorm2d(3, track_running_stats=True),
    nn.LayerNorm((3, 4), eps=1e-6),
    nn.LayerNorm(3, bias=False),
    nn.LayerNorm(3, elementwise_affine=False),
    LayerNorm2d(3, eps=1e-6),
    nn.GroupNorm(2, 4, affine=False),
    nn.RMSNorm(3, eps=1e-6),
    nn.LocalResponseNorm(3, alpha=1e-3, beta=0.5, k=2),
    torchvision.ops.FrozenBatchNorm2d(3, eps=1e-3),
    nn.Linear(3, 4, bias=False),
    nn.Bilinear(3, 4, 5),
    nn.Embedding(6, 3, padding_idx=1, max_norm=2.0),
    nn.MultiheadAttention(8, 2, dropout=0.1, bias=False, add_bias_kv=True, kdim=4, vdim=6, batch_first=True),
    nn.MultiheadAttention(8, 2, add_zero_attn=True),
    nn.GRU(4, 6, 2, bidirectional=True),
    nn.LSTM(4, 6, batch_first=True, proj_size=3),
    nn.RNN(4, 6, nonlinearity="relu", bias=False),
    *(nn.GRUCell(4, 6), nn.LSTMCell(4, 6, bias=False), nn.RNNCell(4, 6, nonlinearity="relu")),
    nn.MaxPool1d(3, 2, 1),
    nn.MaxPool2d((3, 2), stride=2, padding=1, dilation=2, ceil_mode=True),
    nn.AvgPool1d(3, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False, divisor_override=4),
    nn.LPPool2d(1.5, (2, 3), stride=2),
    nn.LPPool2d(2, 2),
    nn.AdaptiveAvgPool1d(2),
    nn.AdaptiveAvgPool2d((None, 7)),
    nn.AdaptiveMaxPool1d(2),
    nn.AdaptiveMaxPool2d((3, 2), return_indices=True),
    *(
        nn.Sigmoid(),
        nn.Tanh(),
        nn.LogSigmoid(),
        nn.Softsign(),
        nn.Tanhshrink(),
        nn.Softmax2d(),
        nn.Identity(),
    ),
    *(nn.ReLU(True), nn.ReLU6(True), nn.SELU(True), nn.SiLU(True), nn.Mish(True), nn.Hardswish(True)),
    *(nn.Hardsigmoid(True), nn.Softmax(1), nn.Softmax(), nn.LogSoftmax(-1), nn.Softmin(1), nn.ELU(0.5, True)),
    *(
        nn.CELU(0.5),
        nn.Softshrink(0.2),
        nn.Hardshrink(0.2),
        nn.GELU("tanh"),
        nn.GLU(1),
        nn.Hardtanh(-2, 3, True),
    ),
    *(
        nn.LeakyReLU(0.2, True),
        nn.PReLU(4),
        nn.RReLU(0.1, 0.4),
        nn.Softplus(2, 10),
        nn.Threshold(0.1, -1.0, True),
        Sqish(0.25, 2.0, 0.5),
    ),
    *(nn.Dropout(0.3, True), nn.Dropout1d(0.3), nn.Dropout2d(0.3), nn.Dropout3d(0.3), nn.AlphaDropout(0.3)),
    *(nn.FeatureAlphaDropout(0.3), torchvision.ops.StochasticDepth(0.1, "row"), Permute([0, 2, 3, 1])),
    *(nn.ReflectionPad1d((1, 2)), nn.ReplicationPad1d(1), nn.ZeroPad1d(1), nn.CircularPad1d(1)),
    *(
        nn.ReflectionPad2d((1, 2, 3, 4)),
        nn.ReplicationPad2d(1),
        nn.ZeroPad2d((1, -1, 0, 0)),
        nn.CircularPad2d(1),
    ),
    *(nn.ConstantPad1d(1, 0.5), nn.ConstantPad2d((1, 2, 3, 4), -1)),
    *(
        nn.ChannelShuffle(2),
        nn.CosineSimilarity(1, 1e-6),
        nn.PairwiseDistance(1.0, 1e-5, True),
        nn.Flatten(2),
        nn.Unflatten(1, (2, 2)),
        nn.PixelShuffle(2),
    ),
    *(nn.PixelUnshuffle(2), nn.Fold((4, 5), 2), nn.Unfold((2, 3), padding=1, stride=2)),
    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    nn.Upsample((4, 5), recompute_scale_factor=False),
    nn.UpsamplingBilinear2d(scale_factor=(2.0, 3.0)),
    nn.UpsamplingNearest2d((4, 5)),
    RobustBlock(6, backend="cayley", pool="none"),
    RobustBlock(8, backend="aoc"),
    RobustBlock(8, backend="aol"),
    TokenBlock(8, size=(3, 5), extra=2, backend="aol"),
]


@pytest.mark.parametrize("layer", EXAMPLES, ids=lambda layer: type(layer).__name__)
def test_a_layer_is_rebuilt_from_its_description(layer: nn.Module) -> None:
    leaf = LAYERS[str(LAYERS.name_of(type(layer)))]
    described = leaf.describe(layer)
    rebuilt = leaf.build(leaf.arguments(json.loads(json.dumps(described))))
    assert type(rebuilt) is type(layer)
    assert leaf.describe(rebuilt) == described
    assert repr(rebuilt) == repr(layer)
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in layer.state_dict().items()
    }
    rebuilt.load_state_dict(layer.state_dict(), strict=True, assign=True)
    constructor = {"training", *dir(nn.Module())}
    mine, theirs = vars(layer), vars(rebuilt)
    for name in mine.keys() - constructor:
        if isinstance(mine[name], int | float | str | bool | tuple):
            assert theirs[name] == mine[name], name


def test_every_class_of_the_table_has_an_example() -> None:
    assert {LAYERS.name_of(type(layer)) for layer in EXAMPLES} == set(LAYERS)


def test_no_layer_keeps_buffers_outside_its_state() -> None:
    for layer in EXAMPLES:
        assert not any(module._non_persistent_buffers_set for module in layer.modules())


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("torch.nn.Conv2d", "in_channels", "4", "in_channels must be a whole number"),
        ("torch.nn.Conv2d", "in_channels", 4.0, "in_channels must be a whole number"),
        ("torch.nn.Conv2d", "in_channels", True, "in_channels must be a whole number"),
        ("torch.nn.Conv2d", "in_channels", 10**12, "in_channels must be a whole number"),
        ("torch.nn.Conv2d", "out_channels", -8, "out_channels must be"),
        ("torch.nn.Conv2d", "groups", 0, "groups must be"),
        ("torch.nn.Conv2d", "groups", 3, "cannot be built"),
        ("torch.nn.Conv2d", "kernel_size", [3], "kernel_size must be"),
        ("torch.nn.Conv2d", "padding", "evil", "padding must be"),
        ("torch.nn.Conv2d", "padding_mode", "x) or print(", "padding_mode must be one of"),
        ("torch.nn.Conv2d", "bias", 1, "bias must be true or false"),
        ("torch.nn.Upsample", "scale_factor", 1e9, "scale_factor must be"),
        ("torch.nn.ReflectionPad2d", "padding", [10**9, 0, 0, 0], "padding must be|padding must"),
        ("torch.nn.Dropout", "p", 2.0, "p must be"),
        ("torch.nn.MultiheadAttention", "num_heads", 3, "cannot be built"),
    ],
)
def test_wrong_constructor_arguments_are_refused(name: str, argument: str, value: object, message: str) -> None:
    layer = next(example for example in EXAMPLES if LAYERS.name_of(type(example)) == name)
    leaf = LAYERS[name]
    arguments = {**leaf.describe(layer), argument: value}
    with pytest.raises(FormatError, match=message):
        leaf.build(leaf.arguments(json.loads(json.dumps(arguments))))


def test_tables_name_what_they_hold() -> None:
    for name, function in FUNCTIONS.items():
        owner, _, last = name.rpartition(".")
        assert getattr(pkgutil.resolve_name(owner), last) is function.target, name
    for name in METHODS:
        assert hasattr(torch.Tensor, name), name
    for name, leaf in LAYERS.items():
        assert name.rpartition(".")[2] == leaf.kind.__name__


def test_no_table_reaches_files_code_or_uninitialized_memory() -> None:
    forbidden = {
        "load",
        "save",
        "system",
        "eval",
        "exec",
        "open",
        "empty",
        "as_strided",
        "compile",
        "apply",
        "numpy",
    }
    names = {name.rpartition(".")[2] for name in (*FUNCTIONS, *METHODS, *LAYERS)}
    assert not names & {*forbidden, "tolist", "data_ptr", "storage", "register_hook", "set_", "share_memory_"}


class Sequences(nn.Module):
    """Tokens of maps through a layer of sequences."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv, self.layer, self.head = nn.Conv2d(3, 8, 4, 4), layer, nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        found = self.layer(self.conv(images).flatten(2).transpose(1, 2))
        return self.head((found[0] if isinstance(self.layer, nn.RNNBase) else found).mean(1))


class Spectra(nn.Module):
    """Parts of a spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        whole = torch.fft.fftshift(torch.fft.fft2(maps, norm="ortho").abs(), dim=(-2, -1))
        back = torch.fft.irfft2(torch.fft.rfft2(maps), s=(4, 4))
        return (whole + back + torch.fft.fft2(maps).real + torch.angle(torch.fft.fft2(maps)).cos()).mean((1, 2, 3))


SEQUENCES = [
    lambda: Sequences(nn.GRU(8, 8, 2, batch_first=True)),
    lambda: Sequences(nn.LSTM(8, 8, batch_first=True)),
    lambda: Sequences(nn.RNN(8, 8, batch_first=True, nonlinearity="relu")),
    lambda: Sequences(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    lambda: Sequences(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")),
    lambda: Sequences(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)),
    Spectra,
]


@pytest.mark.parametrize("make", SEQUENCES)
def test_layers_of_sequences_and_spectra_are_stored(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = QualityModel(make().eval(), Preprocessing(size=(16, 16)))
    save_artifact(model, tmp_path / "model.safetensors", recipe={}, provenance={})
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        # Attention may take a faster way in torch that rounds otherwise.
        torch.testing.assert_close(load_artifact(tmp_path / "model.safetensors")(images), model(images))
