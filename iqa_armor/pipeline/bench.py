"""Measure what models cost, side by side in one run."""

import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

import torch

from iqa_armor.bounded import EndedError, Worker
from iqa_armor.errors import ArmorError, ModelLoadError, UsageError, failing, reading
from iqa_armor.evaluation.comparison import each_figure
from iqa_armor.evaluation.scale import count_flops
from iqa_armor.machine import choose_device
from iqa_armor.models.base import KONIQ_SIZE
from iqa_armor.pipeline.forecast import Forecast, TimedModel, forecast, largest_resident
from iqa_armor.pipeline.hub import fetched
from iqa_armor.pipeline.load import load_model, load_models
from iqa_armor.pipeline.settings import BenchSettings, Opening
from iqa_armor.progress import Progress, automatic

Task = Literal["inference", "training"]
LONGEST = 86_400.0  # seconds that a measurement of memory may take
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FIRST_CALLS = 3  # preparing a large Cayley layer takes many times as long as a call


def benchmark(
    paths: Sequence[Path | str],
    settings: BenchSettings | None = None,
    *,
    opening: Opening | None = None,
    device: torch.device | None = None,
    progress: Progress = automatic,
) -> dict[str, Any]:
    """Measure the models of several files side by side; the files are only read.

    Every round times every model, in an order that turns from round to round, so that a busy machine is busy for all.

    Returned are plain values for JSON, as the schema bench-output says: "settings", and in "models" what each costs.
    Times are medians over the rounds, in seconds, and memory is in bytes: "first_call" finds every cache empty,
    "cache_bytes" is what orthogonal layers keep for the next call, "peak_memory" that of the first call at the largest
    batch and of a training step, "ratio" each figure over the first model's, times as the median of the rounds' ratios.
    Raises UsageError without a file or for images that a network does not take, ModelLoadError if one cannot be opened.
    """
    if not paths:
        raise UsageError("name at least one model file to measure")
    settings, opening, device = settings or BenchSettings(), opening or Opening(), device or choose_device()
    runs = []
    for path, model in zip(paths, load_models(paths, opening), strict=True):
        with reading(path, ModelLoadError):
            file_bytes = fetched(path).stat().st_size
        size = settings.size or model.preprocessing.size or KONIQ_SIZE
        timed = TimedModel(model, size=size, device=device, cache_limit=settings.cache_limit)
        figures: dict[str, Any] = {"parameters": timed.parameters, "file_bytes": file_bytes, "flops": 0}
        figures |= {"first_call": [], "latency": {}, "training_step": [], "peak_memory": {}}
        runs.append(_BenchedModel(Path(path), timed, figures))
    return _Bench(runs, settings, opening, device, progress).run()


def forecast_benchmark(
    paths: Sequence[Path | str], settings: BenchSettings, opening: Opening, device: torch.device
) -> list[Forecast]:
    """Return what the rounds would take, but for first calls and for memory, which is measured apart."""
    batch, found = settings.training_batch, []
    work = {"images": settings.repeats * batch, "batch_size": batch, "epochs": int(settings.has_training)}
    for model in load_models(paths, opening):
        image = torch.rand(3, *(settings.size or model.preprocessing.size or KONIQ_SIZE))
        found.append(forecast(model, image, device=device, calls=sum(settings.batches) / batch, **work))
    return found


@dataclass
class _BenchedModel:
    """One model, and the figures that have a ratio to the first one's; of times all, in the order of the rounds."""

    path: Path
    model: TimedModel
    figures: dict[str, Any]
    cache_bytes: int = 0

    def cost(self, first: Self) -> dict[str, Any]:
        throughput = {batch: int(batch) / _middle(times) for batch, times in self.figures["latency"].items()}
        caches = {"cache_bytes": self.cache_bytes, "cache_limit_bytes": sum(each.limit for each in self.model.caches)}
        costs = {**each_figure(_middle, self.figures), "throughput": throughput, **caches}
        ratio = each_figure(_over, self.figures, first.figures)
        return {"name": self.model.model.name, "size": self.model.size, **costs, "ratio": ratio}


@dataclass(frozen=True)
class _Bench:
    runs: list[_BenchedModel]
    settings: BenchSettings
    opening: Opening
    device: torch.device
    progress: Progress

    def run(self) -> dict[str, Any]:
        batches = self.settings.batches
        for run, batch in product(self.runs, batches):  # so that later calls find the libraries ready
            run.model.score(run.model.images(batch))
        for run in self._rounds("timing first calls", most=FIRST_CALLS):
            run.model.forget()
            run.figures["first_call"].append(run.model.seconds(run.model.score, min(batches)))
        for run in self._rounds("timing calls"):
            for batch in batches:
                run.figures["latency"].setdefault(str(batch), []).append(run.model.seconds(run.model.score, batch))
        for run in self.runs:
            run.cache_bytes = sum(cache.held_bytes for cache in run.model.caches)
            run.figures["flops"] = count_flops(run.model.model, run.model.images(1)[0])
        self._measure_memory("inference", max(batches))
        if self.settings.has_training:
            self._train(self.settings.training_batch)
        costs = [run.cost(self.runs[0]) for run in self.runs]
        return {"schema": "iqa-armor/bench/1", "models": costs, "settings": self._described()}

    def _train(self, batch: int) -> None:
        self._measure_memory("training", batch)
        for run in self.runs:
            run.model.seconds(run.model.train, batch)  # the first one sets up the optimizer
        for run in self._rounds("timing training steps"):
            run.figures["training_step"].append(run.model.seconds(run.model.train, batch))

    def _rounds(self, task: str, *, most: int | None = None) -> Iterator[_BenchedModel]:
        count = min(self.settings.repeats, most or self.settings.repeats)
        for number in range(count):
            yield from self.runs if number % 2 == 0 else reversed(self.runs)
            self.progress(task, number + 1, count)

    def _measure_memory(self, task: Task, batch: int) -> None:
        if not self.settings.has_memory:
            return
        for number, run in enumerate(self.runs, start=1):
            if self.device.type == "cuda":
                run.figures["peak_memory"][task] = cuda_peak(run.model, task, batch)
            else:
                apart = self.opening, run.model.size, batch, task, self.settings.cache_limit
                run.figures["peak_memory"][task] = measured_apart(run.path, *apart)
            self.progress(f"measuring memory of {task}", number, len(self.runs))

    def _described(self) -> dict[str, Any]:
        is_cuda, settings = self.device.type == "cuda", self.settings
        device = torch.cuda.get_device_name(self.device) if is_cuda else platform.processor() or "cpu"
        machine = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
        given = {name: getattr(settings, name) for name in ("batches", "training_batch", "repeats", "cache_limit")}
        method = "allocator statistics" if is_cuda else "resident set of a fresh process"
        return {**machine, **given, "memory_method": method}


def _middle(figure: Any) -> Any:
    return (statistics.median(figure) if figure else None) if isinstance(figure, list) else figure


def _over(figure: Any, first: Any) -> Any:
    """Return a figure over the same of the first model; times round by round, as what slows a whole round cancels."""
    if isinstance(figure, list):
        pairs = zip(figure, first, strict=True)
        return statistics.median(mine / other for mine, other in pairs) if figure else None
    return None if figure is None or not first else figure / first


def measured_apart(
    path: Path | str, opening: Opening, size: tuple[int, int], batch: int, task: Task, cache_limit: int | None
) -> int | None:
    """Return the peak memory in bytes of a model's first call in a fresh process; None where unknown here."""
    worker = Worker(bounds_memory=False)
    work = {"size": size, "batch": batch, "task": task, "cache_limit": cache_limit, "threads": torch.get_num_threads()}
    words = str(path), opening.model_dump(mode="json", include=set(Opening.model_fields)), work
    says, advice = f"the process that measures the memory of {path} failed", "--no-memory leaves that figure out"
    with closing(worker), failing(says, (ArmorError, EndedError), advice=advice):
        peak: int | None = worker.call("iqa_armor.pipeline.bench:measure", *words, seconds=LONGEST)[0]
    return peak


def measure(path: str, opening: dict[str, Any], work: dict[str, Any], _: bytes) -> tuple[int | None, bytes]:
    """Return what `measured_apart` asks for, measured in this process."""
    torch.set_num_threads(work["threads"])
    model = load_model(path, opening=Opening(**opening))
    timed = TimedModel(model, size=tuple(work["size"]), device=torch.device("cpu"), cache_limit=work["cache_limit"])
    images, task = timed.images(work["batch"]), timed.score if work["task"] == "inference" else timed.train
    grown = _growth(lambda: task(images))
    return None if grown is None else grown + timed.own_bytes, b""


def cuda_peak(model: TimedModel, task: Task, batch: int) -> int:
    """Return the bytes that a model and its work, not its images, take on a CUDA device, by allocator statistics."""
    model.forget()
    images = model.images(batch)
    torch.cuda.synchronize(model.device)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    (model.score if task == "inference" else model.train)(images)
    torch.cuda.synchronize(model.device)
    return torch.cuda.max_memory_allocated(model.device) - before + model.own_bytes


def _growth(work: Callable[[], None]) -> int | None:
    """Return by how much the resident set's highest mark passes its size before `work`."""
    is_reset = False  # Linux can reset that mark; elsewhere it starts where loading left it
    with suppress(OSError):
        CLEAR.write_text("5")
        is_reset = STATUS.is_file() and "VmHWM" in STATUS.read_text()
    start = _kilobytes("VmRSS") if is_reset else largest_resident()
    work()
    if is_reset and start is not None:
        return 1024 * max(0, _kilobytes("VmHWM") - start)
    return None if start is None else (largest_resident() or start) - start


def _kilobytes(field: str) -> int:
    return int(STATUS.read_text().partition(f"\n{field}:")[2].split()[0])
