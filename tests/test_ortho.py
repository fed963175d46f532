"""What every backend keeps to, a further one among them: norms, round trips, copies, threads and refusals."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn

from iqa_armor.artifact.storage import load_artifact, save_artifact
from iqa_armor.export import FORMATS
from iqa_armor.export.write import export_model
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.ortho import BACKENDS
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.layer import OrthogonalConv2d
from iqa_armor.ortho.lipschitz import singular_values
from iqa_armor.registry import Entry

SIZES = [(6, 6), (5, 7), (2, 3), (1, 1), (1, 8)]
NORM_TOLERANCE = 1e-4
CONTRACT = [*BACKENDS, "toy"]
TOY = Entry("toy_backend:PointwiseConv2d", "one orthogonal matrix at every pixel; keeps norms")


@pytest.fixture(autouse=True)
def with_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a backend as its one line in the registry would."""
    monkeypatch.setitem(BACKENDS.entries, "toy", TOY)  # type: ignore[arg-type]


def make(backend: str, in_channels: int = 6, out_channels: int = 12, kernel_size: int = 3) -> OrthogonalConv2d:
    torch.manual_seed(0)
    return BACKENDS[backend](in_channels, out_channels, kernel_size)


def orthonormal(rows: int, columns: int) -> Tensor:
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    return torch.linalg.qr(matrix).Q


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
    assert layer.contains(values, tolerance=NORM_TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", CONTRACT)
def test_singular_values_at_the_start(backend: str, size: tuple[int, int]) -> None:
    layer = make(backend)
    assert_norms(layer, size)
    assert singular_values(layer, channels=6, size=size)[-1] >= 1 - NORM_TOLERANCE  # AOL too starts orthogonal
    assert_norms(layer.eval(), size)


@pytest.mark.parametrize(("inputs", "outputs", "kernel_size"), [(1, 1, 3), (1, 3, 3), (7, 15, 3), (5, 5, 5), (3, 8, 1)])
@pytest.mark.parametrize("backend", CONTRACT)
def test_singular_values_after_training(backend: str, inputs: int, outputs: int, kernel_size: int) -> None:
    layer = make(backend, inputs, outputs, kernel_size)
    before = copy.deepcopy(layer.state_dict())
    train(layer, channels=inputs, outputs=outputs)
    assert any(
        not torch.equal(before[name], value) for name, value in layer.state_dict().items() if name != "bias"
    ) or (
        outputs == 1  # a 1 → 1 orthogonal map has only its sign and, with an explicit kernel, nothing to learn
    )
    for size in SIZES:
        assert_norms(layer, size)
    assert_norms(layer.eval(), (5, 7))


@pytest.mark.parametrize("backend", CONTRACT)
def test_distances_are_kept_or_shrink(backend: str) -> None:
    layer = make(backend)
    first, second = torch.randn(2, 3, 6, 5, 8)
    ratio = (layer(first) - layer(second)).norm() / (first - second).norm()
    torch.testing.assert_close(ratio, torch.tensor(1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", CONTRACT)
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


@pytest.mark.parametrize("backend", CONTRACT)
def test_batches_and_sizes_may_change_between_calls(backend: str) -> None:
    layer = make(backend).eval()
    maps = torch.randn(4, 6, 6, 6)
    with torch.no_grad():
        whole = layer(maps)
        assert layer(torch.randn(2, 6, 3, 9)).shape == (2, 12, 3, 9)
        torch.testing.assert_close(layer(maps[:1]), whole[:1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", CONTRACT)
def test_autocast_keeps_the_solve_in_float32(backend: str) -> None:
    layer = make(backend)
    maps = torch.randn(2, 6, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(maps.bfloat16())
    low.float().sum().backward()
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(maps), atol=0.05, rtol=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


@pytest.mark.parametrize("backend", CONTRACT)
def test_half_precision_modules_run(backend: str) -> None:
    layer = make(backend).bfloat16().eval()
    with torch.no_grad():
        output = layer(torch.randn(1, 6, 4, 4, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("backend", CONTRACT)
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


@pytest.mark.parametrize("backend", CONTRACT)
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


@pytest.mark.parametrize("backend", CONTRACT)
def test_layers_build_on_the_meta_device(backend: str) -> None:
    with torch.device("meta"):
        layer = BACKENDS[backend](32, 64)
    assert all(parameter.is_meta for parameter in layer.parameters())


@pytest.mark.parametrize("backend", CONTRACT)
@pytest.mark.parametrize(
    ("sizes", "message"), [((4, 3), "in_channels ≤ out_channels"), ((0, 3), "in_channels"), ((2, 4, 2), "odd")]
)
def test_impossible_sizes_are_refused(backend: str, sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BACKENDS[backend](*sizes)


@pytest.mark.parametrize(("inputs", "outputs", "kernel_size"), [(6, 12, 3), (3, 7, 5), (5, 5, 3), (1, 2, 1)])
@pytest.mark.parametrize("backend", CONTRACT)
def test_right_inverse_gives_the_matrix_back(backend: str, inputs: int, outputs: int, kernel_size: int) -> None:
    layer, matrix = make(backend, inputs, outputs, kernel_size).double(), orthonormal(outputs, inputs)
    aligned = layer.aligned(matrix)
    torch.testing.assert_close(aligned @ aligned.T, matrix @ matrix.T, rtol=0, atol=1e-12)
    layer.assign(aligned)
    maps = torch.randn(2, inputs, 4, 5, dtype=torch.float64)
    expected = torch.einsum("oc,nchw->nohw", aligned, maps)
    torch.testing.assert_close(layer(maps), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(layer.eval()(maps), expected, rtol=0, atol=1e-11)
    train(layer.train().float(), channels=inputs, outputs=outputs, steps=3)  # every parameter can be trained from there
    assert_norms(layer, (5, 7))


@pytest.mark.parametrize("backend", CONTRACT)
def test_samples_are_members_and_follow_their_generator(backend: str) -> None:
    layer, drawn = make(backend), []
    for seed in (1, 1, 2):
        nn.init.normal_(layer.bias)
        layer.sample(torch.Generator().manual_seed(seed))
        assert not layer.bias.any()
        assert_norms(layer, (5, 7))
        drawn.append(copy.deepcopy(layer.state_dict()))
    same, other = ([torch.equal(drawn[0][name], drawn[i][name]) for name in drawn[0]] for i in (1, 2))
    assert all(same)
    assert not all(other)


@pytest.mark.parametrize("backend", CONTRACT)
def test_what_is_no_member_is_told(backend: str) -> None:
    kind = BACKENDS[backend]
    assert kind.contains(torch.ones(4))
    assert not kind.contains(torch.tensor([1.001, 1.0]))
    assert kind.contains(torch.tensor([1.0, 0.9])) is not kind.keeps_norms


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("backend", CONTRACT)
def test_stored_state_rebuilds_the_same_bits(backend: str, kernel_size: int) -> None:
    layer = make(backend, kernel_size=kernel_size)
    train(layer, channels=6, outputs=12, steps=2)
    maps = torch.randn(2, 6, 5, 7)
    with torch.device("meta"):
        rebuilt = BACKENDS[backend](6, 12, kernel_size)
    state = load(save(layer.state_dict()))
    rebuilt.load_state_dict(state, strict=True, assign=True)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(rebuilt(maps), layer(maps))
            layer.eval(), rebuilt.eval()


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (2, 3), (1, 1)])
@pytest.mark.parametrize("backend", CONTRACT)
def test_plain_form_computes_the_same_in_float64(backend: str, size: tuple[int, int]) -> None:
    layer = make(backend).double().eval()
    nn.init.normal_(layer.bias)
    maps = torch.randn(2, 6, *size, dtype=torch.float64)
    plain = layer.plain(size)
    with torch.no_grad():
        torch.testing.assert_close(plain(maps), layer(maps), rtol=0, atol=1e-12)
        assert not list(plain.parameters())
        if layer.fits_any_size:
            other = torch.randn(1, 6, 4, 9, dtype=torch.float64)
            torch.testing.assert_close(plain(other), layer(other), rtol=0, atol=1e-12)
        layer.bias.add_(1)  # the plain form has tensors of its own
        assert not torch.allclose(plain(maps), layer(maps))
    torch.export.export(plain, (maps,), strict=False)


@pytest.mark.parametrize("backend", CONTRACT)
def test_norms_are_exact_in_float64(backend: str) -> None:
    layer = make(backend).double()
    for _ in range(2):
        assert layer.contains(singular_values(layer, channels=6, size=(5, 7)), tolerance=1e-12)
        layer.eval()


@pytest.mark.parametrize("backend", CONTRACT)
def test_maps_without_values_have_a_size(backend: str) -> None:
    with torch.device("meta"):
        layer = BACKENDS[backend](6, 12).eval()
    assert layer(torch.empty(3, 6, 5, 7, device="meta")).shape == (3, 12, 5, 7)


@pytest.mark.parametrize("backend", CONTRACT)
def test_eight_threads_get_the_scores_of_one(backend: str) -> None:
    layer = make(backend).eval()
    layer.cache.limit = 20_000  # so that sizes drive one another out
    maps = [torch.randn(1, 6, *size) for size in [(4, 4), (5, 3), (6, 6), (3, 7), (2, 2), (8, 3)]]
    with torch.no_grad():
        expected = [layer(each) for each in maps]

        def hammer(start: int) -> bool:
            with torch.no_grad():
                return all(
                    torch.equal(layer(maps[i % len(maps)]), expected[i % len(maps)]) for i in range(start, start + 60)
                )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(hammer, range(8)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", CONTRACT)
def test_compilation_breaks_the_graph_once_and_uses_what_is_kept(backend: str, training: bool) -> None:
    torch.manual_seed(0)
    block = RobustBlock(8, backend=backend, pool="none").train(training)
    maps, builds = torch.randn(1, 8, 6, 5), []
    kept = block.orthogonal.cache.get
    block.orthogonal.cache.get = lambda key, parameters, build: kept(  # type: ignore[method-assign]
        key, parameters, lambda: builds.append(key) or build()
    )
    torch._dynamo.reset()
    with torch.no_grad():
        graphs = torch._dynamo.explain(block)(maps)
        assert graphs.graph_break_count <= 1, graphs.break_reasons
        compiled = torch.compile(block, backend="eager")
        for _ in range(3):
            torch.testing.assert_close(compiled(maps), block(maps), rtol=1e-6, atol=1e-6)
        assert len(builds) == (not training)
        block.orthogonal.sample(torch.Generator().manual_seed(1))
        torch.testing.assert_close(compiled(maps), block(maps), rtol=1e-6, atol=1e-6)  # never stale
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", CONTRACT)
def test_a_model_with_the_backend_is_stored_and_exported(backend: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), RobustBlock(8, backend=backend)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)).eval()
    model = QualityModel(network, Preprocessing(size=(12, 16))).eval()
    images = torch.rand(2, 3, 12, 16)
    save_artifact(model, tmp_path / "m.safetensors", recipe={}, provenance={})
    export_model(model, tmp_path / "m.pt2")
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(load_artifact(tmp_path / "m.safetensors")(images), expected)
        torch.testing.assert_close(FORMATS["pt2"].read(tmp_path / "m.pt2")[1](images), expected)
