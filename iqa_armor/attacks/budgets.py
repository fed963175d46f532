"""What a budget is called, in which unit it is written, and the same attack with another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iqa_armor.attacks.base import Attack

LEVELS = 255.0


def at_epsilon(attack: Attack, epsilon: float) -> Attack:
    """Return the attack with another budget, in [0, 1] units."""
    changed: Any = attack  # an Attack is a dataclass, which a Protocol cannot say
    return replace(changed, epsilon=epsilon)  # type: ignore[no-any-return]


def at_budgets(attack: Attack, epsilons: Sequence[float]) -> tuple[Attack, ...]:
    """Return the attack at every L-infinity budget, in [0, 1] units; one in another norm keeps its own budget."""
    return tuple(at_epsilon(attack, epsilon) for epsilon in epsilons) if attack.norm == "linf" else (attack,)


def budget_key(attack: Attack) -> str:
    """Return the name of an attack's budget: pixel values in 1/255, other lengths as they are, or "own"."""
    if attack.norm == "none":
        return "own"
    return f"{attack.epsilon * unit_of(attack, 'epsilon'):g}"


def in_pixel_values(attack: Attack, setting: str) -> bool:
    """Return whether a setting is a pixel value, which is written in 1/255."""
    return setting == "step_size" or (setting == "epsilon" and attack.norm in ("linf", "rmse"))


def unit_of(attack: Attack, setting: str) -> float:
    """Return the number that the written text of a setting is divided by."""
    return LEVELS if in_pixel_values(attack, setting) else 1.0
