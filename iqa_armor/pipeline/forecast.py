"""How long a model takes on this machine, and what a job would: measured on a few calls, before it is started."""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.budgets import at_budgets
from iqa_armor.attacks.scores import score_gradient
from iqa_armor.data.base import Dataset
from iqa_armor.errors import ModelLoadError, UsageError, failing
from iqa_armor.evaluation.run import followed_score, prepare_for
from iqa_armor.evaluation.scale import count_flops
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.machine import time_on
from iqa_armor.models.base import QualityModel
from iqa_armor.ortho.cache import CachingModule

ROUNDS = 3
LEARNING_RATE = 1e-6  # so small that hundreds of steps leave any network finite


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

    def seconds(self, work: Callable[[Tensor], None], batch: int) -> float:
        images = self.images(batch)
        started = time_on(self.device)
        work(images)
        return time_on(self.device) - started

    def _refusing(self, problem: str, wayout: str) -> AbstractContextManager[None]:
        failures = (RuntimeError, ValueError, LookupError, ModelLoadError)
        return failing(f"{self.model.name} {problem}", failures, error=UsageError, advice=wayout)


@dataclass(frozen=True)
class Forecast:
    """What a job would take."""

    name: str
    size: tuple[int, int]  # (height, width) of the images as the network sees them
    parameters: int
    flops: int  # of scoring one image
    images: int  # that the job works on
    call_seconds: float  # of scoring one image in a batch
    seconds: float  # of the whole job, but for reading and fitting attacks
    memory: int | None  # largest resident set of this process so far, or of the CUDA allocator, in bytes


def forecast(
    model: QualityModel,
    image: Tensor,
    *,
    device: torch.device,
    images: int,
    calls: float = 0,
    gradients: float = 0,
    epochs: int = 0,
    batch_size: int = 8,
    eot: int = 1,
) -> Forecast:
    """Return what work on images such as a prepared one (3, H, W) in [0, 1] would take, measured on the device.

    Each is scored `calls` times and followed by an attack `gradients` times, over `eot` draws of a random defense; the
    model, which moves to the device, is trained a little if `epochs` are asked for.
    """
    timed = TimedModel(model, size=(image.shape[-2], image.shape[-1]), device=device)
    batch, flops = min(batch_size, images) or 1, count_flops(model, image)
    call = _median(timed, timed.score, batch)
    seconds = images * calls * call
    if gradients:
        with frozen(model):
            followed = _median(timed, lambda pixels: score_gradient(followed_score(model, eot), pixels), batch)
        seconds += images * gradients * followed
    if epochs:
        step = batch * _median(timed, timed.train, max(2, batch))
        seconds += epochs * math.ceil(images / batch_size) * step
    memory = int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else largest_resident()
    return Forecast(model.name, timed.size, timed.parameters, flops, images, call, seconds, memory)


def forecast_attacks(
    models: Sequence[QualityModel], datasets: Sequence[Dataset], settings: EvaluationSettings, device: torch.device
) -> list[Forecast]:
    attacks = [each for one in settings.named_attacks().values() for each in at_budgets(one, settings.epsilons)]
    work = {"calls": 1 + len(attacks), "gradients": sum(map(steps_of, attacks))}
    limits, found = {"batch_size": settings.batch_size, "eot": settings.eot}, []
    for model, dataset in product(models, datasets):
        chosen = dataset.reported()[1].limit(settings.limit)
        image = prepare_for(model, dataset)(chosen[0])
        found.append(forecast(model, image, device=device, images=len(chosen), **work, **limits))
    return found


def steps_of(attack: Any) -> int:
    """Return how many gradients or queries an attack takes, by the settings that say it; 1 where none does."""
    counts = [getattr(attack, name) for name in ("steps", "queries", "iterations") if hasattr(attack, name)]
    return math.prod(counts) * getattr(attack, "restarts", 1) if counts else 1


def slowdown(original: QualityModel, other: QualityModel, image: Tensor, device: torch.device) -> tuple[float, float]:
    """Return the seconds that two models take to score one prepared image (3, H, W), in alternating rounds."""
    size = image.shape[-2], image.shape[-1]
    timed = [TimedModel(model, size=size, device=device) for model in (original, other)]
    rounds = [[each.seconds(each.score, 1) for each in timed] for _ in range(2 + 2 * ROUNDS)][2:]
    first, second = (statistics.median(times) for times in zip(*rounds, strict=True))
    return first, second


def _median(timed: TimedModel, work: Any, batch: int) -> float:
    """Return seconds per image; the first call, which prepares, does not count."""
    return statistics.median([timed.seconds(work, batch) for _ in range(1 + ROUNDS)][1:]) / batch


def largest_resident() -> int | None:
    """Return the largest resident set of this process so far, in bytes; None where it is not known."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
