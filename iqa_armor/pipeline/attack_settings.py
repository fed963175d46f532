"""Which attacks write images. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from iqa_armor.settings import BUDGET, Attacks, Direction, SettingsModel


class AttackSettings(SettingsModel):
    """Attacks, their budget and direction."""

    attacks: Attacks = ("pgd8",)
    epsilon: float = Field(4.0, ge=0, le=255, description=BUDGET)
    direction: Direction = 1
