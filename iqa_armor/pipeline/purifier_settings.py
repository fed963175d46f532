"""What a purifier is trained against. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iqa_armor.settings import Attacks, Budgets, Limit
from iqa_armor.training.filter_settings import FilterSettings


class PurifierSettings(FilterSettings):
    """How a filter is trained, and against which attacks: every one at every budget and in every direction."""

    attacks: Attacks = Field(("pgd8",), min_length=1)
    epsilons: Budgets = Field(tuple(value / 255 for value in (2, 4, 6, 8, 10)), min_length=1)
    direction: Literal["up", "down", "both"] = Field(
        "up", description="Whether attacks raise the score or lower it, or take turns (both)."
    )
    limit: Limit = Field(512, ge=4)
