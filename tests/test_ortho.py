"""The three orthogonal convolutions: norms, caching, copies and refusals."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from iqa_armor.ortho import BACKENDS, AocConv2d, AolConv2d, FoldedConv2d, OrthogonalConv2d, singular_values
from iqa_armor.ortho.aoc import orthogonal_kernel, orthonormal_columns
from iqa_armor.ortho.aol import rescale
from iqa_armor.ortho.circular import adjoint_kernel, autocorrelation, convolve

SIZES = [(6, 6), (5, 7), (2, 3), (1, 1), (1, 8)]
NORM_TOLERANCE = 1e-4


def make(backend: str, in_channels: int = 6, out_channels: int = 12, kernel_size: int = 3) -> OrthogonalConv2d:
    torch.manual_seed(0)
    return BACKENDS[backend](in_channels, out_channels, kernel_size)  # type: ignore[index]


def train(layer: nn.Module, *, channels: int, outputs: int, steps: int = 20, rate: float = 1e-2) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, channels, 5, 4, generator=generator) + 0.5
    target = 2 * torch.randn(2, outputs, 5, 4, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        ((layer(maps) - target) ** 2).mean().backward()
        optimizer.step()


def assert_norms(layer: OrthogonalConv2d, size: tuple[int, int]) -> None:
    values = singular_values(layer, channels=layer.in_channels, size=size)
    assert len(values) == size[0] * size[1] * layer.in_channels
    assert values[0] <= 1 + NORM_TOLERANCE
    if not isinstance(layer, AolConv2d):
        assert values[-1] >= 1 - NORM_TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_singular_values_at_the_start(backend: str, size: tuple[int, int]) -> None:
    layer = make(backend)
    assert_norms(layer, size)
    assert singular_values(layer, channels=6, size=size)[-1] >= 1 - NORM_TOLERANCE  # AOL too starts orthogonal
    assert_norms(layer.eval(), size)


@pytest.mark.parametrize(("inputs", "outputs", "kernel_size"), [(1, 1, 3), (1, 3, 3), (7, 15, 3), (5, 5, 5), (3, 8, 1)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_singular_values_after_training(backend: str, inputs: int, outputs: int, kernel_size: int) -> None:
    layer = make(backend, inputs, outputs, kernel_size)
    before = copy.deepcopy(layer.state_dict())
    train(layer, channels=inputs, outputs=outputs)
    assert any(
        not torch.equal(before[name], value) for name, value in layer.state_dict().items() if name != "bias"
    ) or (
        outputs == 1  # a 1 → 1 orthogonal map has only its sign and, with AOC, nothing to learn
    )
    for size in SIZES:
        assert_norms(layer, size)
    assert_norms(layer.eval(), (5, 7))


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_are_kept_or_shrink(backend: str) -> None:
    layer = make(backend)
    first, second = torch.randn(2, 3, 6, 5, 8)
    ratio = (layer(first) - layer(second)).norm() / (first - second).norm()
    torch.testing.assert_close(ratio, torch.tensor(1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eval_gives_the_same_bits_twice_and_the_values_of_training(backend: str) -> None:
    layer = make(backend)
    maps = torch.randn(3, 6, 7, 4)
    trained = layer(maps)
    layer.eval()
    with torch.no_grad():
        first, second = layer(maps), layer(maps)
    assert torch.equal(first, second)
    assert layer.cache.held_bytes > 0
    torch.testing.assert_close(first, trained.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_and_sizes_may_change_between_calls(backend: str) -> None:
    layer = make(backend).eval()
    maps = torch.randn(4, 6, 6, 6)
    with torch.no_grad():
        whole = layer(maps)
        assert layer(torch.randn(2, 6, 3, 9)).shape == (2, 12, 3, 9)
        torch.testing.assert_close(layer(maps[:1]), whole[:1], atol=1e-6, rtol=1e-5)


def in_place(layer: OrthogonalConv2d) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def reload(layer: OrthogonalConv2d) -> None:
    torch.manual_seed(5)
    layer.load_state_dict(type(layer)(6, 12).state_dict())


def reassign(layer: OrthogonalConv2d) -> None:
    torch.manual_seed(6)
    layer.load_state_dict(type(layer)(6, 12).state_dict(), assign=True)


def train_a_step(layer: OrthogonalConv2d) -> None:
    layer.train()
    with torch.enable_grad():
        train(layer, channels=6, outputs=12, steps=1)
    layer.eval()


@pytest.mark.parametrize("change", [in_place, reload, reassign, train_a_step])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_is_never_stale(backend: str, change: object) -> None:
    layer = make(backend).eval()
    maps = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        before = layer(maps)
        change(layer)  # type: ignore[operator]
        after = layer(maps)
        fresh = type(layer)(6, 12).eval()
        fresh.load_state_dict(layer.state_dict())
        assert not torch.allclose(before, after, atol=1e-3)
        assert torch.equal(after, fresh(maps))


@pytest.mark.parametrize(
    "drop", [lambda layer: layer.train(), lambda layer: layer.double(), lambda layer: reload(layer)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_is_dropped(backend: str, drop: object) -> None:
    layer = make(backend).eval()
    with torch.no_grad():
        layer(torch.randn(1, 6, 4, 4))
    assert layer.cache.held_bytes > 0
    drop(layer)  # type: ignore[operator]
    assert layer.cache.held_bytes == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_value_over_the_limit_is_not_kept(backend: str) -> None:
    layer = make(backend).eval()
    maps = torch.randn(1, 6, 4, 4)
    with torch.no_grad():
        expected = layer(maps)
        layer.cache.clear()
        layer.cache.limit = 8
        assert torch.equal(layer(maps), expected)
    assert layer.cache.held_bytes == 0


def test_cayley_cache_stays_within_its_limit_over_many_sizes() -> None:
    layer = make("cayley").eval()
    layer.cache.limit = 20_000
    with torch.no_grad():
        for size in range(1, 9):
            layer(torch.randn(1, 6, size, size))
    assert 0 < layer.cache.held_bytes <= 20_000


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_input_gradients_in_eval_equal_those_in_training(backend: str, frozen: bool) -> None:
    layer = make(backend).requires_grad_(not frozen)
    maps, weights = torch.randn(2, 6, 5, 6), torch.randn(2, 12, 5, 6)

    def gradients() -> list[Tensor]:
        point = maps.clone().requires_grad_()
        wanted = [point, *(parameter for parameter in layer.parameters() if not frozen)]
        return list(torch.autograd.grad((layer(point) * weights).sum(), wanted))

    expected = gradients()
    layer.eval()
    with torch.inference_mode():
        layer(maps)  # a cache filled here must still serve an attack
    for found in (gradients(), gradients()):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_the_solve_in_float32(backend: str) -> None:
    layer = make(backend)
    maps = torch.randn(2, 6, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(maps.bfloat16())
    low.float().sum().backward()
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(maps), atol=0.05, rtol=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_modules_run(backend: str) -> None:
    layer = make(backend).bfloat16().eval()
    with torch.no_grad():
        output = layer(torch.randn(1, 6, 4, 4, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_survives_copy_pickle_and_safetensors(backend: str, tmp_path: Path) -> None:
    layer = make(backend).eval()
    maps = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        expected = layer(maps)
        assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}
        save_file(layer.state_dict(), tmp_path / "layer.safetensors")
        loaded = type(layer)(6, 12).eval()
        loaded.load_state_dict(load_file(tmp_path / "layer.safetensors"), strict=True)
        pickled = pickle.loads(pickle.dumps(layer))
        for twin in (loaded, copy.deepcopy(layer), pickled):
            assert twin.cache.held_bytes == 0
            assert twin.cache is not layer.cache
            assert torch.equal(twin(maps), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pickle_holds_no_cache(backend: str) -> None:
    layer, full = make(backend).eval(), make(backend).eval()
    with torch.no_grad():
        full(torch.randn(1, 6, 16, 16))
    sizes = []
    for module in (layer, full):
        buffer = io.BytesIO()
        torch.save(module, buffer)
        sizes.append(buffer.tell())
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_build_on_the_meta_device(backend: str) -> None:
    with torch.device("meta"):
        layer = BACKENDS[backend](32, 64)  # type: ignore[index]
    assert all(parameter.is_meta for parameter in layer.parameters())


@pytest.mark.parametrize("backend", ["aoc", "aol"])
def test_folding_gives_a_plain_convolution(backend: str) -> None:
    layer = make(backend)
    assert isinstance(layer, FoldedConv2d)
    maps = torch.randn(2, 6, 5, 7)
    plain = layer.folded()
    assert type(plain) is nn.Conv2d
    torch.testing.assert_close(plain(maps), layer(maps), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("sizes", "message"), [((4, 3), "in_channels ≤ out_channels"), ((0, 3), "in_channels"), ((2, 4, 2), "odd")]
)
def test_impossible_sizes_are_refused(backend: str, sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BACKENDS[backend](*sizes)  # type: ignore[index]


def test_autocorrelation_is_the_kernel_of_the_gram_operator() -> None:
    kernel, maps = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 2, 7)
    twice = convolve(convolve(maps, kernel), adjoint_kernel(kernel))
    torch.testing.assert_close(convolve(maps, autocorrelation(kernel)), twice, atol=1e-4, rtol=1e-4)


def test_orthonormal_columns_stand_ill_conditioned_matrices() -> None:
    matrices = torch.randn(2, 40, 20) * torch.logspace(0, -2, 20)
    columns = orthonormal_columns(matrices)
    torch.testing.assert_close(columns.mT @ columns, torch.eye(20).expand(2, 20, 20), atol=3e-6, rtol=0)


def test_aoc_composes_as_orthogonium_does() -> None:
    """On the same projectors, our block convolutions are theirs."""
    block = pytest.importorskip("orthogonium.layers.conv.AOC.fast_block_ortho_conv")
    torch.manual_seed(0)
    mixing, subspaces = torch.randn(6, 3), torch.randn(4, 6, 3)
    bases = orthonormal_columns(subspaces)
    inside = bases @ bases.mT
    outside = torch.eye(6) - inside
    factors = [  # 2×1, 1×2, and with exchanged taps 1×2, 2×1
        torch.stack([inside[0], outside[0]], dim=-1)[..., None],
        torch.stack([inside[1], outside[1]], dim=-1)[..., None, :],
        torch.stack([outside[2], inside[2]], dim=-1)[..., None, :],
        torch.stack([outside[3], inside[3]], dim=-1)[..., None],
    ]
    expected = orthonormal_columns(mixing)[..., None, None]
    for factor in factors:
        full = torch.zeros(6, 6, 2, 2)  # theirs takes square kernels only
        full[..., : factor.shape[2], : factor.shape[3]] = factor
        expected = block.fast_matrix_conv(expected, full)
    assert expected[..., 3:, :].abs().max() == expected[..., 3:].abs().max() == 0
    found = orthogonal_kernel(mixing, subspaces)
    torch.testing.assert_close(found, expected[..., :3, :3], atol=1e-5, rtol=1e-5)


def test_aoc_and_orthogonium_are_both_orthogonal() -> None:
    theirs = pytest.importorskip("orthogonium.layers").AdaptiveOrthoConv2d(6, 12, 3)
    for layer, tolerance in ((theirs, 1e-3), (AocConv2d(6, 12), NORM_TOLERANCE)):
        values = singular_values(layer, channels=6, size=(5, 6))
        assert abs(values - 1).max() < tolerance


def test_aol_rescales_as_orthogonium_does() -> None:
    module = pytest.importorskip("orthogonium.layers.conv.AOL.aol")
    kernel = torch.randn(12, 6, 3, 3)
    theirs = module.MultiStepAOLReparametrizer(6, groups=1, niter=1)(kernel)
    torch.testing.assert_close(rescale(kernel), theirs, atol=1e-6, rtol=1e-4)


def test_aol_leaves_an_orthogonal_kernel_alone_and_bounds_any_other() -> None:
    torch.manual_seed(0)
    layer = AolConv2d(6, 12)
    torch.testing.assert_close(layer.kernel(), layer.weight.detach(), atol=1e-5, rtol=1e-4)
    for scale in (1e-3, 1.0, 1e3):
        nn.init.normal_(layer.weight, std=scale)
        assert singular_values(layer, channels=6, size=(5, 7))[0] <= 1 + NORM_TOLERANCE


def test_aol_keeps_a_dead_input_channel_finite() -> None:
    layer = AolConv2d(3, 6)
    with torch.no_grad():
        layer.weight[:, 1] = 0
    layer(torch.randn(1, 3, 4, 4)).sum().backward()
    assert torch.isfinite(layer.weight.grad).all()  # type: ignore[arg-type]
