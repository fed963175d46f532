"""What an evaluation is to find: attacks, budgets and bookkeeping."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator

from iqa_armor import settings as shared
from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.budgets import at_budgets, budget_key, turned, unit_of
from iqa_armor.errors import UsageError
from iqa_armor.results.outcome import Settings
from iqa_armor.settings import Flag, SettingsModel

if TYPE_CHECKING:
    import torch

    from iqa_armor.attacks.base import Attack

PAPER_EPSILONS = (2 / 255, 4 / 255, 6 / 255, 8 / 255, 10 / 255)
RANKING_EPSILONS = (0.25 / 255, 0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
RANKING = "ranking"  # the attack on the ranking in tables


class EvaluationSettings(SettingsModel):
    """Attacks, budgets and bookkeeping of an evaluation; weights are by default those of [RA] for its data (ours)."""

    attacks: shared.Attacks = ("pgd1", "pgd8")
    epsilons: shared.Budgets = PAPER_EPSILONS
    direction: shared.RankDirection = 1
    ranking: str = "pgd8"
    ranking_epsilons: shared.RankingBudgets = RANKING_EPSILONS
    batch_size: int = Field(8, gt=0)
    limit: shared.Limit = None
    seed: shared.Seed = 0
    fit_images: int = Field(64, gt=0)
    checks: bool = False
    check_images: int = Field(16, gt=0)
    eot: int = Field(8, gt=0)
    resamples: int = Field(1000, gt=0)
    confidence: float = Field(0.95, gt=0, lt=1)
    weights: Annotated[tuple[float, ...] | None, Flag(("--weight",))] = None

    @field_validator("epsilons", "ranking_epsilons")
    @classmethod
    def _ascends(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < e <= 1 for e in value) or any(a >= b for a, b in pairwise(value)):
            raise ValueError("budgets must ascend within (0, 1]")
        return value

    @field_validator("ranking")
    @classmethod
    def _can_rank(cls, value: str) -> str:
        from iqa_armor.attacks.base import Fitted

        try:
            attack = None if value == "none" else ATTACKS.read(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        if attack is not None and (attack.norm != "linf" or isinstance(attack, Fitted)):
            raise ValueError("must be an L-infinity attack that learns nothing")
        return value

    _named: dict[str, Any] = PrivateAttr(default_factory=dict)

    def model_post_init(self, _: object) -> None:
        from iqa_armor.attacks.base import Fitted, accepted

        for given in self.attacks:
            attack: Any = ATTACKS.read(given) if isinstance(given, str) else accepted(given, repr(given))
            name = given if isinstance(given, str) else _word_of(attack)
            if name in self._named:
                raise UsageError(f"attacks must all differ, got {name} twice")
            self._named[name] = turned(attack, self.sign)
            if self.direction == "rank" and isinstance(attack, Fitted):
                raise UsageError(f"{name} learns one pattern for one direction, so it cannot attack a ranking")

    @property
    def borrows(self) -> bool:
        """Whether an attack tries what moves the baseline."""
        from iqa_armor.attacks.base import Borrowing

        return any(isinstance(each, Borrowing) for each in (*self._named.values(), *self.ranking_attacks()))

    @property
    def sign(self) -> Literal[1, -1]:
        """Way that gains are counted in: along the attack where it is one on the ranking."""
        return -1 if self.direction == -1 else 1

    def ranking_attacks(self) -> tuple[Attack, ...]:
        """Return the attack on the ranking at each of its budgets, none if it is off; steps are at most the budget."""
        if self.ranking == "none":
            return ()
        found: Any = at_budgets(ATTACKS.read(self.ranking), self.ranking_epsilons)
        if hasattr(found[0], "step_size"):
            found = (replace(each, step_size=min(each.step_size, each.epsilon)) for each in found)
        return tuple(found)

    def ranking_keys(self) -> tuple[str, ...]:
        return tuple(map(budget_key, self.ranking_attacks()))

    def changed(self, **values: Any) -> Self:
        return type(self)(**{**dict(self), **values})

    def named_attacks(self) -> dict[str, Attack]:
        """Return the attacks by name, in this evaluation's direction: the words that name them, or classes."""
        return dict(self._named)

    def budgets(self) -> dict[str, tuple[str, ...]]:
        swept = {name: at_budgets(attack, self.epsilons) for name, attack in self._named.items()}
        return {name: tuple(map(budget_key, attacks)) for name, attacks in swept.items()}

    def swept(self) -> tuple[str, ...]:
        """Return the attacks that are run at every budget."""
        return tuple(name for name, attack in self._named.items() if attack.norm == "linf")

    def report(self, device: torch.device | str = "cpu") -> Settings:
        """Return what the outcome says about these settings; lengths in pixels become 1/255."""
        shared = {name: value for name, value in self if name in Settings.model_fields}
        described = {
            "attacks": {name: _describe(attack) for name, attack in self._named.items()},
            "epsilons": tuple(float(f"{epsilon * 255:g}") for epsilon in self.epsilons),
            "ranking_epsilons": tuple(map(float, self.ranking_keys())),
        }
        return Settings.model_validate({**shared, **described, "budgets": self.budgets(), "device": str(device)})


def _word_of(attack: Any) -> str:
    """Return the class of an attack with those settings that are not its defaults, as a word would say it."""
    own, defaults = _describe(attack), {each.name: each.default for each in fields(attack)}
    changed = [f"{name}={own[name]}" for name in defaults if name in own and getattr(attack, name) != defaults[name]]
    return ":".join(filter(None, (type(attack).__name__, ",".join(changed))))


def _describe(attack: Any) -> dict[str, float | int | str]:
    """Return type, norm and hyperparameters; the budget too, unless it is swept."""
    described: dict[str, float | int | str] = {"type": type(attack).__name__, "norm": attack.norm}
    hidden = {"direction"} | ({"epsilon"} if attack.norm in ("linf", "none") else set())
    for name in (each.name for each in fields(attack) if each.name not in hidden):
        value, unit = getattr(attack, name), unit_of(attack, name)
        if value != ():
            plain = value if isinstance(value, int | float | str) else str(value)
            described[name] = plain if unit == 1 else float(f"{value * unit:g}")
    return described
