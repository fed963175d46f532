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
from iqa_armor.machine import choose_device
from iqa_armor.models.base import KONIQ_SIZE
from iqa_armor.pipeline.bench_costs import Cost, Notes
from iqa_armor.pipeline.bench_settings import BenchSettings
from iqa_armor.pipeline.loading import load_models
from iqa_armor.pipeline.opening import Opening
from iqa_armor.pipeline.peak_memory import Request, Task, measured_apart
from iqa_armor.pipeline.timed_model import TimedModel, cuda_peak
from iqa_armor.progress import Progress, silent

SCHEMA = "iqa-armor/bench/1"
# Preparing a large Cayley layer takes many times as long as a call.
FIRST_CALLS = 3


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
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Benchmark:
    """Measure the models of several files side by side; the files are only read.

    Every round times every model, in an order that turns round from round to round, so that a busy machine
    is busy for all of them. Calls that prepare anything come before the rounds.

    Args:
        paths: Model files; the first is what the others are compared with.
        settings: What to measure.
        opening: How to open foreign files.
        device: Where to compute; None lets `choose_device` decide.
        progress: Receiver of progress.

    Raises:
        UsageError: If there is no file, or a network does not take such images.
        ModelLoadError: If a file cannot be opened.
    """
    if not paths:
        raise UsageError("name at least one model file to measure")
    settings, opening, device = settings or BenchSettings(), opening or Opening(), device or choose_device()
    notes = []
    for path, model in zip(paths, load_models(paths, opening), strict=True):
        size = settings.size or model.preprocessing.size or KONIQ_SIZE
        notes.append(Notes(TimedModel(model, size=size, device=device, cache_limit=settings.cache_limit), path))
    return _Rounds(notes, settings, opening, device, progress).run()


@dataclass(frozen=True)
class _Rounds:
    """One benchmark under way."""

    notes: list[Notes]
    settings: BenchSettings
    opening: Opening
    device: torch.device
    progress: Progress

    def run(self) -> Benchmark:
        for notes in self.notes:
            self._warm(notes)
        self._rounds("timing first calls", self._time_first_call, most=FIRST_CALLS)
        self._rounds("timing calls", self._time_calls)
        for notes in self.notes:
            notes.cache_bytes = notes.model.cache_bytes
            notes.flops = count_flops(notes.model.model, notes.model.images(1)[0])
        self._measure_memory("inference", max(self.settings.batches))
        if self.settings.has_training:
            self._measure_memory("training", self.settings.training_batch)
            for notes in self.notes:
                self._time_step(notes)
                notes.steps.clear()  # the first step sets up the optimizer
            self._rounds("timing training steps", self._time_step)
        return Benchmark(tuple(notes.cost(self.notes[0]) for notes in self.notes), self._described())

    def _warm(self, notes: Notes) -> None:
        """Run every batch once, so that later calls find the libraries ready."""
        for batch in self.settings.batches:
            notes.model.score(notes.model.images(batch))

    def _time_first_call(self, notes: Notes) -> None:
        notes.model.forget()
        images = notes.model.images(min(self.settings.batches))
        notes.first_calls.append(notes.model.seconds(notes.model.score, images))

    def _rounds(self, task: str, time_one: Callable[[Notes], None], *, most: int | None = None) -> None:
        count = min(self.settings.repeats, most or self.settings.repeats)
        for number in range(count):
            for notes in self.notes if number % 2 == 0 else reversed(self.notes):
                time_one(notes)
            self.progress(task, number + 1, count)

    def _time_calls(self, notes: Notes) -> None:
        for batch in self.settings.batches:
            seconds = notes.model.seconds(notes.model.score, notes.model.images(batch))
            notes.calls.setdefault(batch, []).append(seconds)

    def _time_step(self, notes: Notes) -> None:
        images = notes.model.images(self.settings.training_batch)
        notes.steps.append(notes.model.seconds(notes.model.train, images))

    def _measure_memory(self, task: Task, batch: int) -> None:
        if not self.settings.has_memory:
            return
        for number, notes in enumerate(self.notes, start=1):
            notes.peaks[task] = self._peak(notes, task, batch)
            self.progress(f"measuring memory of {task}", number, len(self.notes))

    def _peak(self, notes: Notes, task: Task, batch: int) -> int | None:
        model = notes.model
        if self.device.type == "cuda":
            return cuda_peak(model, model.score if task == "inference" else model.train, batch)
        request = Request(
            path=notes.path,
            opening=self.opening,
            size=model.size,
            batch=batch,
            task=task,
            cache_limit=self.settings.cache_limit,
            threads=torch.get_num_threads(),
        )
        return measured_apart(request)

    def _described(self) -> dict[str, Any]:
        is_cuda = self.device.type == "cuda"
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
