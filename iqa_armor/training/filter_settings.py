"""How a filter is trained. Imports no torch."""

from typing import ClassVar

from pydantic import Field

from iqa_armor.errors import ArmorError, RecipeError
from iqa_armor.settings import BatchSize, Epochs, LearningRate, Seed, SettingsModel


class FilterSettings(SettingsModel):
    """How a filter is trained, by Adam."""

    error: ClassVar[type[ArmorError]] = RecipeError
    epochs: Epochs = Field(10, ge=1)
    learning_rate: LearningRate = Field(2e-3, gt=0, le=1)
    batch_size: BatchSize = Field(4, ge=1)
    fresh: bool = Field(
        False, description="Attack the training images anew in every epoch, each by the next draw, which takes longer."
    )
    seed: Seed = 0
