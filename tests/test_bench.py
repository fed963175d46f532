"""The benchmark: its figures' structure, facts that do not depend on the machine, refusals, peak memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CPU
from torch import nn

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import QualityModel
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.pipeline import bench
from iqa_armor.pipeline.forecast import TimedModel
from iqa_armor.pipeline.settings import BenchSettings, Opening
from iqa_armor.surgery.edits import splice
from iqa_armor.surgery.stages import choose

Make = Callable[..., QualityModel]
QUICK = BenchSettings(batches=(1, 2), repeats=2, has_memory=False)


def benchmark(paths: list[Path], settings: BenchSettings | None = None, device: torch.device = CPU) -> SimpleNamespace:
    """Return what was found with names in place of keys."""
    found = bench.benchmark(paths, settings, device=device)
    return SimpleNamespace(models=[SimpleNamespace(**cost) for cost in found["models"]], settings=found["settings"])


def saved(folder: Path, model: QualityModel, name: str, *, backend: str | None = None) -> Path:
    """Write a model, with a block where a backend is named, and return its path."""
    traced = trace(model.network, torch.zeros(1, 3, 32, 40))
    if backend is not None:
        splice(traced, choose(traced, "last")[0], RobustBlock(24, backend=backend).eval())  # type: ignore[arg-type]
    path = folder / f"{name}.safetensors"
    save_artifact(model.with_network(traced, scale=None), path, recipe={}, provenance={})
    return path


@pytest.fixture
def plain(tmp_path: Path, make_model: Make) -> Path:
    return saved(tmp_path, make_model(), "plain")


@pytest.fixture
def cayley(tmp_path: Path, make_model: Make) -> Path:
    return saved(tmp_path, make_model(), "cayley", backend="cayley")


def test_models_stand_side_by_side(plain: Path, cayley: Path) -> None:
    first, second = benchmark([plain, cayley], QUICK).models
    assert (first.name, second.name) == ("plain", "cayley")
    assert second.parameters > first.parameters
    assert second.file_bytes == cayley.stat().st_size > first.file_bytes
    assert first.size == (32, 40)
    assert set(first.latency) == set(first.throughput) == {"1", "2"}
    for cost in (first, second):
        assert cost.throughput["2"] == pytest.approx(2 / cost.latency["2"])
        assert min(cost.first_call, cost.training_step or 0, cost.flops) > 0
    assert second.ratio["parameters"] == pytest.approx(second.parameters / first.parameters)


def test_first_model_has_ratios_of_one(plain: Path) -> None:
    (cost,) = benchmark([plain], QUICK).models
    assert cost.ratio["latency"] == {"1": 1, "2": 1}
    assert [cost.ratio[name] for name in ("parameters", "flops", "file_bytes", "first_call", "training_step")] == [
        1
    ] * 5


def test_cache_is_shown_with_its_bound_and_can_be_done_without(plain: Path, cayley: Path) -> None:
    first, second = benchmark([plain, cayley], QUICK).models
    assert first.cache_bytes == first.cache_limit_bytes == 0
    assert 0 < second.cache_bytes <= second.cache_limit_bytes
    (without,) = benchmark([cayley], QUICK.model_copy(update={"has_cache": False})).models
    assert without.cache_bytes == without.cache_limit_bytes == 0


def test_parts_left_out_are_not_measured(plain: Path) -> None:
    found = benchmark([plain], QUICK.model_copy(update={"has_training": False}))
    assert found.models[0].training_step is None
    assert found.models[0].peak_memory == {}


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path, plain: Path) -> None:
    (tmp_path / "b").mkdir()
    twin = tmp_path / "b" / plain.name
    twin.write_bytes(plain.read_bytes())
    settings = BenchSettings(batches=(1,), repeats=1, has_memory=False, has_training=False)
    assert [cost.name for cost in benchmark([plain, twin], settings).models] == [str(plain), str(twin)]


def test_peak_memory_holds_at_least_the_model(cayley: Path) -> None:
    settings = BenchSettings(batches=(1,), repeats=1, size=(64, 64), has_training=False)
    found = benchmark([cayley], settings)
    (cost,) = found.models
    assert set(cost.peak_memory) == {"inference"}
    assert (cost.peak_memory["inference"] or 0) > 4 * cost.parameters
    assert found.settings["memory_method"] == "resident set of a fresh process"


@pytest.mark.slow
def test_peak_memory_grows_with_the_batch(plain: Path) -> None:
    def peak(batch: int) -> int:
        return bench.measured_apart(plain, Opening(), (128, 128), batch, "training", None) or 0

    # The maps of the first convolution alone are 16 × 64 × 64 × 4 bytes per image.
    assert peak(128) > peak(1) + 127 * 2**18


def test_memory_is_measured_where_the_mark_cannot_be_reset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "CLEAR", tmp_path / "absent" / "clear_refs")
    grown = bench._growth(lambda: None)
    assert grown is not None
    assert grown >= 0


def test_failing_process_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(ArmorError, match="there is no model file"):
        bench.measured_apart(tmp_path / "absent.pt", Opening(), (32, 32), 1, "inference", None)


def test_benchmark_leaves_the_file_alone(plain: Path) -> None:
    before = plain.read_bytes()
    benchmark([plain], QUICK)
    assert plain.read_bytes() == before


@pytest.mark.parametrize(
    "settings", [{"batches": ()}, {"batches": (0,)}, {"repeats": 0}, {"size": (0, 32)}], ids=lambda given: str(given)
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"greater than|at least"):
        BenchSettings(**settings)


def test_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one model"):
        benchmark([])


def test_size_that_a_network_cannot_take_is_refused_by_name(make_model: Make) -> None:
    model = make_model()
    model.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))
    timed = TimedModel(model, size=(8, 9), device=CPU)
    with pytest.raises(UsageError, match=r"small cannot score 1 images of 8x9.*another --size"):
        timed.score(timed.images(1))
    with pytest.raises(UsageError, match=r"small cannot be trained.*--no-training"):
        timed.train(timed.images(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda_counts_the_model(cayley: Path) -> None:
    settings = BenchSettings(batches=(1, 4), repeats=2)
    found = benchmark([cayley], settings, device=torch.device("cuda"))
    assert found.settings["memory_method"] == "allocator statistics"
    assert all(
        (found.models[0].peak_memory[task] or 0) > 4 * found.models[0].parameters for task in ("inference", "training")
    )
