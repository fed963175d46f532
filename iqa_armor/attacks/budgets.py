"""What a budget is called, in which unit it is written, and the same attack with another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iqa_armor.attacks.base import Attack


def at_budgets(attack: Any, epsilons: Sequence[float]) -> tuple[Attack, ...]:
    """Return the attack at every L-infinity budget, in [0, 1] units; one in another norm keeps its own budget."""
    return tuple(replace(attack, epsilon=epsilon) for epsilon in epsilons) if attack.norm == "linf" else (attack,)


def turned(attack: Any, direction: int) -> Attack:  # a dataclass, which the Protocol cannot say
    return replace(attack, direction=direction)  # type: ignore[no-any-return]


def budget_key(attack: Attack) -> str:
    """Return the name of an attack's budget: pixel values in 1/255, other lengths as they are, or "own"."""
    return "own" if attack.norm == "none" else f"{attack.epsilon * unit_of(attack, 'epsilon'):g}"


def unit_of(attack: Attack, setting: str) -> float:
    """Return the number that the written text of a setting is divided by: 255 for pixel values, else 1."""
    return 255.0 if setting == "step_size" or (setting == "epsilon" and attack.norm in ("linf", "rmse")) else 1.0
