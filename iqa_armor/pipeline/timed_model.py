"""A model on the bench: what is timed, and the peak memory of its work."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iqa_armor.bounded import EndedError, Worker
from iqa_armor.errors import ArmorError, ModelLoadError, UsageError, failing
from iqa_armor.machine import time_on
from iqa_armor.models.base import QualityModel
from iqa_armor.ortho.cache import CachingModule
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.settings import Opening

Task = Literal["inference", "training"]
LEARNING_RATE = 1e-6  # so small that hundreds of steps leave any network finite
LONGEST = 86_400.0  # seconds that a measurement of memory may take
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TimedModel:
    """A model on its device to be timed on random images of one size (height, width); training changes it in place."""

    def __init__(
        self, model: QualityModel, *, size: tuple[int, int], device: torch.device, cache_limit: int | None = None
    ) -> None:
        self.model, self.size, self.device = model.eval().to(device), size, device
        self.parameters = sum(each.numel() for each in model.parameters())
        self.own_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        self.caches = [module.cache for module in model.modules() if isinstance(module, CachingModule)]
        for cache in self.caches:
            cache.limit = cache.limit if cache_limit is None else cache_limit
        self._optimizer: torch.optim.Optimizer | None = None

    def forget(self) -> None:
        for cache in self.caches:
            cache.clear()

    def images(self, batch: int) -> Tensor:
        """Return random images (batch, 3, H, W) in [0, 1]."""
        return torch.rand(batch, 3, *self.size, generator=torch.Generator().manual_seed(0)).to(self.device)

    def score(self, images: Tensor) -> None:
        """Score images in eval mode, or raise a UsageError if the network does not take them."""
        if self.model.training:  # going through all modules at every call would count as the model's time
            self.model.eval()
        problem = "cannot score {} images of {}x{}".format(len(images), *images.shape[-2:])
        with torch.inference_mode(), self._refusing(problem, "choose another --size or a smaller --batch"):
            self.model(images)

    def train(self, images: Tensor) -> None:
        """Take one step of AdamW on the mean squared score in train mode, or raise a UsageError if that fails."""
        if self._optimizer is None:
            self.model.requires_grad_(True)
            self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        if not self.model.training:
            self.model.train()
        with self._refusing("cannot be trained", "leave training out with --no-training"):
            loss = self.model(images).square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()

    def work(self, task: Task) -> Callable[[Tensor], None]:
        return self.score if task == "inference" else self.train

    def seconds(self, work: Callable[[Tensor], None], batch: int) -> float:
        images = self.images(batch)
        started = time_on(self.device)
        work(images)
        return time_on(self.device) - started

    def _refusing(self, problem: str, wayout: str) -> AbstractContextManager[None]:
        failures = (RuntimeError, ValueError, LookupError, ModelLoadError)
        return failing(f"{self.model.name} {problem}", failures, error=UsageError, advice=wayout)


def measured_apart(
    path: Path, opening: Opening, size: tuple[int, int], batch: int, task: Task, cache_limit: int | None
) -> int | None:
    """Return the peak memory in bytes of a model's first call in a fresh process, or None where unknown here.

    That is its own tensors and what the resident set grows by, gradients and optimizer state included. A process that
    fails is an ArmorError.
    """
    worker = Worker(bounds_memory=False)
    work = {"size": size, "batch": batch, "task": task, "cache_limit": cache_limit, "threads": torch.get_num_threads()}
    words = str(path), opening.model_dump(mode="json", include=set(Opening.model_fields)), work
    says, advice = f"the process that measures the memory of {path} failed", "--no-memory leaves that figure out"
    with closing(worker), failing(says, (ArmorError, EndedError), advice=advice):
        peak: int | None = worker.call("iqa_armor.pipeline.timed_model:measure", *words, seconds=LONGEST)[0]
    return peak


def measure(path: str, opening: dict[str, Any], work: dict[str, Any], _: bytes) -> tuple[int | None, bytes]:
    """Return what `measured_apart` asks for, measured in this process."""
    torch.set_num_threads(work["threads"])
    model = load_model(path, opening=Opening(**opening))
    timed = TimedModel(model, size=tuple(work["size"]), device=torch.device("cpu"), cache_limit=work["cache_limit"])
    images = timed.images(work["batch"])
    grown = _growth(lambda: timed.work(work["task"])(images))
    return None if grown is None else grown + timed.own_bytes, b""


def cuda_peak(model: TimedModel, task: Task, batch: int) -> int:
    """Return the bytes that a model and its work, not its images, take on a CUDA device, by allocator statistics."""
    model.forget()
    images = model.images(batch)
    torch.cuda.synchronize(model.device)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    model.work(task)(images)
    torch.cuda.synchronize(model.device)
    return torch.cuda.max_memory_allocated(model.device) - before + model.own_bytes


def _growth(work: Callable[[], None]) -> int | None:
    """Return by how much the resident set's highest mark passes its size before `work`.

    Linux lets a process reset that mark; elsewhere it starts where loading left it, so the growth may look smaller.
    """
    is_reset = False
    with suppress(OSError):
        CLEAR.write_text("5")
        is_reset = STATUS.is_file() and "VmHWM" in STATUS.read_text()
    start = _kilobytes("VmRSS") if is_reset else largest_resident()
    work()
    if is_reset and start is not None:
        return 1024 * max(0, _kilobytes("VmHWM") - start)
    return None if start is None else (largest_resident() or start) - start


def largest_resident() -> int | None:
    """Return the largest resident set of this process so far, in bytes; None where it is not known."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _kilobytes(field: str) -> int:
    return int(STATUS.read_text().partition(f"\n{field}:")[2].split()[0])
