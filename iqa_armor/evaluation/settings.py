"""How an evaluation is run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.base import Attack, Direction
from iqa_armor.attacks.budgets import at_budgets, budget_key, in_pixel_values
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.surface import EOT_SAMPLES
from iqa_armor.results import Settings

PAPER_EPSILONS = (2 / 255, 4 / 255, 6 / 255, 8 / 255, 10 / 255)


@dataclass(frozen=True)
class EvaluationSettings:
    """Attacks, budgets and bookkeeping of an evaluation.

    Args:
        attacks: Words that `ATTACKS.read` reads, all different.
        epsilons: Budgets every attack is run at, ascending, pixels being in [0, 1].
        direction: +1 raises the model's score, -1 lowers it, whatever either means for quality.
        batch_size: Images per forward pass.
        limit: Most images per dataset, spread evenly over it; None for all.
        device: Where the models are while they are evaluated.
        seed: Seed of attacks that draw or learn, and of the bootstrap.
        fit_images: Most images that an attack which learns does so on.
        checks: Whether to check the strength of the attacks, on images of the first dataset.
        check_images: Most images that the checks use.
        eot: Draws that an attacker of a random defense averages.
        resamples: Bootstrap resamples of the intervals.
        confidence: Coverage of the intervals, in (0, 1).
        weights: Weight of each dataset in combined figures; None for 2 with opinion scores and 1
            without (ours), which is the 2 : 1 of [RA] for KonIQ-10k and NIPS 2017.

    Raises:
        UsageError: If a value is out of its range or an attack is unknown.
    """

    attacks: tuple[str, ...] = ("pgd1", "pgd8")
    epsilons: tuple[float, ...] = PAPER_EPSILONS
    direction: Direction = 1
    batch_size: int = 8
    limit: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    fit_images: int = 64
    checks: bool = False
    check_images: int = 16
    eot: int = EOT_SAMPLES
    resamples: int = 1000
    confidence: float = 0.95
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.epsilons, self.epsilons[1:], strict=False))
        problems = {
            f"budgets must ascend within (0, 1], got {self.epsilons}": self.epsilons
            and ascending
            and 0 < self.epsilons[0] <= self.epsilons[-1] <= 1,
            f"attacks must all differ, got {self.attacks}": len(set(self.attacks)) == len(self.attacks),
            f"direction must be 1 or -1, got {self.direction}": self.direction in (1, -1),
            f"batch size must be positive, got {self.batch_size}": self.batch_size > 0,
            f"limit must be positive, got {self.limit}": self.limit is None or self.limit > 0,
            f"images to fit attacks on must be positive, got {self.fit_images}": self.fit_images > 0,
            f"images of the checks must be positive, got {self.check_images}": self.check_images > 0,
            f"draws that are averaged (EOT) must be positive, got {self.eot}": self.eot > 0,
            f"resamples must be positive, got {self.resamples}": self.resamples > 0,
            f"confidence must lie in (0, 1), got {self.confidence}": 0 < self.confidence < 1,
        }
        for problem, is_fine in problems.items():
            if not is_fine:
                raise UsageError(problem)
        self.build_attacks()

    def build_attacks(self) -> dict[str, Attack]:
        """Return the attacks by the words that name them, in this evaluation's direction."""
        built: dict[str, Any] = {word: ATTACKS.read(word) for word in self.attacks}
        return {word: replace(attack, direction=self.direction) for word, attack in built.items()}

    def budgets(self) -> dict[str, tuple[str, ...]]:
        """Return the keys of the budgets that each attack is run at."""
        return {
            word: tuple(budget_key(each) for each in at_budgets(attack, self.epsilons))
            for word, attack in self.build_attacks().items()
        }

    @property
    def headline_epsilon(self) -> float:
        """Budget that single figures speak of: 4/255 where it is among the budgets, else the middle one."""
        return next((e for e in self.epsilons if f"{e * 255:g}" == "4"), self.epsilons[len(self.epsilons) // 2])

    def identity(self) -> dict[str, Any]:
        """Return what per-image results follow from: not how they are summed up."""
        left_out = {"device", "resamples", "confidence"}
        return {**self.report().model_dump(mode="json", exclude=left_out), "fit_images": self.fit_images}

    def report(self) -> Settings:
        """Return what the outcome says about these settings; lengths in pixels become 1/255."""
        built: dict[str, Any] = self.build_attacks()
        return Settings(
            attacks={word: _describe(attack) for word, attack in built.items()},
            budgets=self.budgets(),
            epsilons=tuple(float(f"{epsilon * 255:g}") for epsilon in self.epsilons),
            direction=self.direction,
            batch_size=self.batch_size,
            limit=self.limit,
            device=str(self.device),
            seed=self.seed,
            eot=self.eot,
            resamples=self.resamples,
            confidence=self.confidence,
        )


def _describe(attack: Any) -> dict[str, float | int | str]:
    """Return type, norm and hyperparameters; the budget too, unless it is swept."""
    described: dict[str, float | int | str] = {"type": type(attack).__name__, "norm": attack.norm}
    for name, value in asdict(attack).items():
        if name == "direction" or (name == "epsilon" and attack.norm in ("linf", "none")):
            continue
        described[name] = float(f"{value * 255:g}") if in_pixel_values(attack, name) else value
    return described
