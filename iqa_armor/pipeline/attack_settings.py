"""Which attacks write images. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iqa_armor.settings import Attacks, Direction, SettingsModel


class AttackSettings(SettingsModel):
    """Attacks, their budget and direction."""

    attacks: Attacks = ("pgd8",)
    epsilon: float = Field(4.0, ge=0, le=255)
    direction: Direction = 1
