"""What feature smoothing costs beside input smoothing, and how often attacks leave its local bounds.

    python tests/benchmarks/feature_smoothing.py MODEL [--arch ARCH] [--data csv:labels.csv]     # some minutes

Everything takes turns, one image at a time; medians of the rounds' processor time are compared, so run it in one
thread (OMP_NUM_THREADS=1). Input median smoothing is written out plainly here. The second part attacks images inside
the radius and counts smoothed scores (at the noise level of the clean image, from many samples) that leave the
certified interval: a first-order bound promises nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from iqa_armor import load_model
from iqa_armor.data.specs import open_dataset
from iqa_armor.defenses.smoothing.feature_smoothing import BoundFeatureSmoother, FeatureSmoothing
from iqa_armor.defenses.smoothing.input_smoothing import median_ranks
from iqa_armor.models.base import QualityModel

SAMPLES, UNCERTIFIED, SIGMA = 1000, 100, 0.12
PAPER = FeatureSmoothing(samples=SAMPLES)


@torch.no_grad()
def input_smoothing(model: QualityModel, image: Tensor, *, batch: int) -> tuple[Tensor, Tensor]:
    """Return the bounds of median smoothing of the image's pixels with 1000 noisy copies."""
    generator = Generator().manual_seed(0)
    scores = torch.cat(
        [
            model(image + SIGMA * torch.randn((batch, *image.shape[1:]), generator=generator))
            for _ in range(SAMPLES // batch)
        ]
    )
    low, high = median_ranks(SAMPLES, PAPER.radius / SIGMA, PAPER.confidence)
    ordered = scores.sort().values
    return ordered[low - 1], ordered[high - 1]


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return the mean processor time of one call, which others on the machine do not lengthen much."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


@torch.no_grad()
def timing(model: QualityModel, images: Tensor, *, rounds: int, batch: int) -> dict[str, object]:
    """Return median seconds of every method, and the ratios that are claimed."""
    measured, calibrated = PAPER.bind(model), PAPER.calibrate(model, images).bind(model)

    def uncertified(image: Tensor) -> Tensor:
        return calibrated.scores(image, Generator().manual_seed(0), samples=UNCERTIFIED)

    works: dict[str, tuple[Callable[[Tensor], object], int]] = {
        "plain": (model, 20),
        "features_100": (uncertified, 20),
        "features_calibrated": (lambda image: calibrated.certify(image, Generator().manual_seed(0)), 5),
        "features_per_image": (lambda image: measured.certify(image, Generator().manual_seed(0)), 1),
        "input_median": (lambda image: input_smoothing(model, image, batch=batch), 1),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        image = images[number % len(images)][None]
        for name, (work, times) in works.items():
            found = seconds(lambda work=work, image=image: work(image), times)
            if number:  # the first round warms up
                taken[name].append(found)
    pairs = {
        "features_100 / plain": ("features_100", "plain"),
        "features_per_image / input_median": ("features_per_image", "input_median"),
        "features_calibrated / input_median": ("features_calibrated", "input_median"),
    }
    ratios = {
        name: statistics.median(a / b for a, b in zip(taken[above], taken[below], strict=True))
        for name, (above, below) in pairs.items()
    }
    return {"seconds": {name: statistics.median(found) for name, found in taken.items()}, "ratios": ratios}


def attacked(bound: BoundFeatureSmoother, images: Tensor, radius: float, *, direction: int, steps: int = 20) -> Tensor:
    """Return images moved by at most `radius` in L2 so that the model's score goes one way."""
    change = torch.zeros_like(images)
    for _ in range(steps):
        change.requires_grad_()
        (gradient,) = torch.autograd.grad(direction * bound.model(images + change).sum(), change)
        moved = change.detach() + radius / 5 * _unit(gradient)
        change = moved * (radius / moved.flatten(1).norm(dim=1).clamp_min(radius)).view(-1, 1, 1, 1)
    return (images + change.detach()).clamp(0, 1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.flatten(1).norm(dim=1).clamp_min(1e-20).view(-1, 1, 1, 1)


def escapes(model: QualityModel, images: Tensor, factors: tuple[float, ...]) -> dict[str, object]:
    """Return per radius how many of the images' smoothed scores an attack takes out of their intervals.

    "reached" is how far the worst came on its way from the clean smoothed score (0) to a bound (1).
    """
    found_at: dict[str, object] = {}
    for factor in factors:
        settings = replace(PAPER, radius=PAPER.radius * factor)
        bound, reached = settings.bind(model), []
        for image in images.split(1):
            found = bound.certify(image, Generator().manual_seed(0))
            moved = torch.cat([attacked(bound, image, settings.radius, direction=way) for way in (1, -1)])
            with torch.no_grad():
                features, sigma = bound.features(moved), found.sigma.repeat(2)
                scores = bound.noisy_scores(features, sigma, Generator().manual_seed(1), samples=10_000)
            medians = scores.median(dim=1).values
            up = (medians - found.scores) / (found.upper - found.scores)
            down = (found.scores - medians) / (found.scores - found.lower)
            reached.append(float(torch.maximum(up, down).max()))
        left = sum(share > 1 for share in reached) / len(reached)
        found_at[f"r = {settings.radius:g}"] = {"left": left, "reached": max(reached)}
    return found_at


def main() -> None:
    """Measure and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--arch")
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=10, help="noisy images at once; divides 1000")
    parser.add_argument("--attacked", type=int, default=8, help="images that are attacked")
    options = parser.parse_args()
    model = load_model(options.model, options.arch).requires_grad_(False)
    _, chosen = open_dataset(options.data).reported()
    spread = chosen.limit(max(options.images, options.attacked))
    images = torch.stack([model.prepare(spread[index]) for index in range(len(spread))])
    found = timing(model, images[: options.images], rounds=options.rounds, batch=options.batch)
    measured = PAPER.bind(model)
    certificates = measured.certify(images[: options.images], Generator().manual_seed(0))
    found["jacobian"] = certificates.jacobian.tolist()
    found["certified_delta"] = certificates.delta.tolist()
    found["global_bound"] = measured.global_bound().value
    found["under_attack"] = escapes(model, images[: options.attacked], (1, 10, 50))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
