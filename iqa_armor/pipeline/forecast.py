"""What a job would take on this machine: measured on a few calls, before it is started."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.budgets import at_budgets
from iqa_armor.attacks.scores import score_gradient
from iqa_armor.data.base import Dataset
from iqa_armor.evaluation.run import followed_score, prepare_for
from iqa_armor.evaluation.scale import count_flops
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.timed_model import TimedModel, largest_resident

ROUNDS = 3


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
    batch = min(batch_size, images) or 1
    flops = count_flops(model, image)
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
