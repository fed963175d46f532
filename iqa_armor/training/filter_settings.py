"""How a filter is trained. Imports no torch."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from iqa_armor.errors import ArmorError, RecipeError, UsageError
from iqa_armor.settings import Attacks, Budgets, Limit, Seed, SettingsModel


class FilterSettings(SettingsModel):
    """How a filter is trained, by Adam."""

    error: ClassVar[type[ArmorError]] = RecipeError
    epochs: int = Field(10, ge=1)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    batch_size: int = Field(4, ge=1)
    fresh: bool = False
    seed: Seed = 0


class PurifierSettings(FilterSettings):
    """How a filter is trained, and against which attacks: every one at every budget and in every direction."""

    error: ClassVar[type[ArmorError]] = UsageError

    attacks: Attacks = Field(("pgd8",), min_length=1)
    epsilons: Budgets = Field(tuple(value / 255 for value in (2, 4, 6, 8, 10)), min_length=1)
    direction: Literal["up", "down", "both"] = "up"
    limit: Limit = Field(512, ge=4)

    @field_validator("epsilons")
    @classmethod
    def _in_range(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < epsilon <= 1 for epsilon in value):
            raise ValueError("budgets lie above 0 and at most at 255 (in 1/255)")
        return value
