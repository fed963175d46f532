"""What the paper's PGD sweep costs beyond its gradients, and whether memory grows with the dataset.

    python tests/benchmarks/sweep.py                  # about two minutes

The sweep (1 and 8 steps, five budgets) needs 20 gradients; as many bare forward and backward passes take turns with
it. Memory is the highest mark of a process of its own that evaluates 32 or 512 images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision
from torch import Generator, Tensor, nn

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.budgets import at_budgets
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.plan import Plan, run_plan
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.evaluation.evaluation import evaluate
from iqa_armor.evaluation.settings import PAPER_EPSILONS, EvaluationSettings
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale

SIDE, BATCH, GRADIENTS = 224, 8, 20


class Counted:
    """A score function that counts how often its gradient is wanted."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.gradients = model, 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return scores (N,)."""
        self.gradients += int(images.requires_grad)
        return self.model(images)


def network() -> QualityModel:
    """Return a ResNet-18 with random weights."""
    torch.manual_seed(0)
    body = torchvision.models.resnet18(weights=None, num_classes=1)
    return QualityModel(body, Preprocessing(size=(SIDE, SIDE)), scale=ScoreScale(-1, 1), name="resnet18").eval()


def sweep(model: Counted, images: Tensor) -> None:
    """Run the paper's sweep."""
    plan: Plan = {f"pgd{steps}": at_budgets(PGD(steps=steps), PAPER_EPSILONS) for steps in (1, 8)}
    for _ in run_plan(plan, model, images, generator=lambda _: Generator()):
        pass


def bare(model: Counted, images: Tensor, count: int) -> None:
    """Take the gradient of the score as often."""
    for _ in range(count):
        pixels = images.detach().requires_grad_()
        torch.autograd.grad(model(pixels).sum(), pixels)


def overhead(rounds: int) -> dict[str, float]:
    """Return the median ratio of the two over rounds in which they take turns."""
    model, images = Counted(network()), torch.rand(BATCH, 3, SIDE, SIDE)
    ratios = []
    with frozen(model.model):
        bare(model, images, 2)
        for _ in range(rounds):
            model.gradients, start = 0, time.perf_counter()
            sweep(model, images)
            middle, count = time.perf_counter(), model.gradients
            bare(model, images, count)
            ratios.append((middle - start) / (time.perf_counter() - middle))
    return {"gradients": count, "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def peak_bytes(count: int) -> int:
    """Return the most memory that this process held after it evaluated so many images."""

    def read(index: int) -> Tensor:
        return torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))

    names = tuple(f"{index}.png" for index in range(count))
    images = ImageSet(names, read, torch.arange(count, dtype=torch.float64))
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)
    )
    model = QualityModel(body, Preprocessing(size=(SIDE, SIDE)), scale=ScoreScale(-1, 1), name="small")
    evaluate([model], [Dataset("memory", {"test": images})], settings=EvaluationSettings(batch_size=BATCH))
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peak_elsewhere(count: int) -> int:
    """Return `peak_bytes` of a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--peak", str(count)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    """Measure and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        sys.stdout.write(f"{peak_bytes(options.peak)}\n")
        return
    found = overhead(options.rounds) | {f"peak_bytes_{count}": peak_elsewhere(count) for count in (32, 128, 512)}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
