"""Measure what models cost, side by side in one run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from iqa_armor.errors import UsageError
from iqa_armor.evaluation.cost import count_flops
from iqa_armor.models.base import KONIQ_SIZE
from iqa_armor.pipeline.bench_costs import Cost, Notes
from iqa_armor.pipeline.devices import choose_device
from iqa_armor.pipeline.loading import Opening, load_model
from iqa_armor.pipeline.peak_memory import Request, Task, measured_apart
from iqa_armor.pipeline.timed_model import Trial, cuda_peak, first_score
from iqa_armor.progress import Progress, silent

SCHEMA = "iqa-armor/bench/1"
# Preparing a large Cayley layer takes many times as long as a call.
FIRST_CALLS = 3


@dataclass(frozen=True)
class BenchSettings:
    """What to measure, and how often.

    Args:
        size: (height, width) of the images, or None for each model's own.
        batches: Images per call for latency and throughput.
        repeats: Rounds; each times every model once at every batch.
        device: "auto", "cpu" or "cuda".
        cache_limit: Bytes that each orthogonal layer may keep in eval mode, 0 to recompute at every call, or
            None for the layers' own limits.
        has_training: Whether to time training steps.
        has_memory: Whether to measure peak memory.

    Raises:
        UsageError: If a number is not positive, or there is no batch.
    """

    size: tuple[int, int] | None = None
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 10
    device: str = "auto"
    cache_limit: int | None = None
    has_training: bool = True
    has_memory: bool = True

    def __post_init__(self) -> None:
        numbers = (*self.batches, *(self.size or ()), self.repeats)
        if not self.batches or min(numbers) < 1:
            raise UsageError(
                f"batches, size and repeats must be positive, got {self.batches}, {self.size}, {self.repeats}"
            )

    @property
    def training_batch(self) -> int:
        """Images of a training step: the largest batch, but two at least, as batch norm wants."""
        return max(2, *self.batches)


@dataclass(frozen=True)
class Benchmark:
    """The costs of several models in one run.

    Args:
        models: In the order given; ratios refer to the first.
        settings: How they were measured.
    """

    models: tuple[Cost, ...]
    settings: dict[str, Any]

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"schema": SCHEMA, **asdict(self)}


def benchmark(
    paths: Sequence[Path],
    settings: BenchSettings | None = None,
    *,
    opening: Opening | None = None,
    progress: Progress = silent,
) -> Benchmark:
    """Measure the models of several files side by side; the files are only read.

    Every round times every model, in an order that turns round from round to round, so that a busy machine
    is busy for all of them. Calls that prepare anything come before the rounds.

    Args:
        paths: Model files; the first is what the others are compared with.
        settings: What to measure.
        opening: How to open foreign files.
        progress: Receiver of progress.

    Raises:
        UsageError: If there is no file, no such device, or a network does not take such images.
        ModelLoadError: If a file cannot be opened.
    """
    if not paths:
        raise UsageError("name at least one model file to measure")
    return _Bench(paths, settings or BenchSettings(), opening or Opening(), progress).run()


class _Bench:
    """One benchmark under way."""

    def __init__(self, paths: Sequence[Path], settings: BenchSettings, opening: Opening, progress: Progress) -> None:
        self.settings, self.opening, self.progress = settings, opening, progress
        self.device = choose_device(settings.device)
        self.notes = [self._opened(path, is_alone=sum(path.stem == p.stem for p in paths) == 1) for path in paths]

    def run(self) -> Benchmark:
        for notes in self.notes:
            self._warm(notes)
        self._rounds("timing first calls", self._time_first_call, most=FIRST_CALLS)
        self._rounds("timing calls", self._time_calls)
        for notes in self.notes:
            notes.cache_bytes = notes.trial.cache_bytes
            notes.flops = count_flops(notes.trial.model, notes.trial.images(1)[0])
        self._measure_memory("inference", max(self.settings.batches))
        if self.settings.has_training:
            self._measure_memory("training", self.settings.training_batch)
            for notes in self.notes:
                self._time_step(notes)
                notes.steps.clear()  # the first step sets up the optimizer
            self._rounds("timing training steps", self._time_step)
        return Benchmark(tuple(notes.cost(self.notes[0]) for notes in self.notes), self._described())

    def _opened(self, path: Path, *, is_alone: bool) -> Notes:
        model = load_model(path, opening=self.opening)
        model.name = path.stem if is_alone else str(path)
        size = self.settings.size or model.preprocessing.size or KONIQ_SIZE
        return Notes(Trial(model, size=size, device=self.device, cache_limit=self.settings.cache_limit), path)

    def _warm(self, notes: Notes) -> None:
        """Run every batch once, so that later calls find the libraries ready."""
        for batch in self.settings.batches:
            notes.trial.score(notes.trial.images(batch))

    def _time_first_call(self, notes: Notes) -> None:
        notes.first_calls.append(first_score(notes.trial, notes.trial.images(min(self.settings.batches))))

    def _rounds(self, task: str, time_one: Callable[[Notes], None], *, most: int | None = None) -> None:
        count = min(self.settings.repeats, most or self.settings.repeats)
        for number in range(count):
            for notes in self.notes if number % 2 == 0 else reversed(self.notes):
                time_one(notes)
            self.progress(task, number + 1, count)

    def _time_calls(self, notes: Notes) -> None:
        for batch in self.settings.batches:
            seconds = notes.trial.seconds(notes.trial.score, notes.trial.images(batch))
            notes.calls.setdefault(batch, []).append(seconds)

    def _time_step(self, notes: Notes) -> None:
        images = notes.trial.images(self.settings.training_batch)
        notes.steps.append(notes.trial.seconds(notes.trial.train, images))

    def _measure_memory(self, task: Task, batch: int) -> None:
        if not self.settings.has_memory:
            return
        for number, notes in enumerate(self.notes, start=1):
            notes.peaks[task] = self._peak(notes, task, batch)
            self.progress(f"measuring memory of {task}", number, len(self.notes))

    def _peak(self, notes: Notes, task: Task, batch: int) -> int | None:
        trial = notes.trial
        if self.device.startswith("cuda"):
            return cuda_peak(trial, trial.score if task == "inference" else trial.train, batch)
        request = Request(
            path=notes.path,
            opening=self.opening,
            size=trial.size,
            batch=batch,
            task=task,
            cache_limit=self.settings.cache_limit,
            threads=torch.get_num_threads(),
        )
        return measured_apart(request)

    def _described(self) -> dict[str, Any]:
        is_cuda = self.device.startswith("cuda")
        return {
            "device": torch.cuda.get_device_name(self.device) if is_cuda else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "batches": list(self.settings.batches),
            "training_batch": self.settings.training_batch,
            "repeats": self.settings.repeats,
            "cache_limit": self.settings.cache_limit,
            "memory_method": "allocator statistics" if is_cuda else "resident set of a fresh process",
        }
