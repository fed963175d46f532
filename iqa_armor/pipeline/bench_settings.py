"""What a benchmark measures, and how often. Imports no torch."""

from typing import Annotated

from pydantic import Field, field_validator

from iqa_armor.settings import Flag, Positive, SettingsModel, Size


class BenchSettings(SettingsModel):
    """What to measure, and how often."""

    size: Annotated[Size | None, Flag(kind=str, metavar="HEIGHTxWIDTH", shown="each model's own")] = Field(
        None, description="Size of the images."
    )
    batches: Annotated[tuple[Positive, ...], Flag(("--batch",))] = Field(
        (1, 8), min_length=1, description="Images per call; may be repeated."
    )
    repeats: int = Field(10, ge=1, description="Rounds; each times every model once per batch.")
    has_cache: Annotated[bool, Flag(("--cache/--no-cache",))] = Field(
        True, description="Keep between calls what orthogonal layers compute once, or recompute it."
    )
    has_training: Annotated[bool, Flag(("--training/--no-training",))] = Field(
        True, description="Whether training steps are timed."
    )
    has_memory: Annotated[bool, Flag(("--memory/--no-memory",))] = Field(
        True, description="Whether peak memory is measured."
    )

    @field_validator("batches")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(value))

    @property
    def cache_limit(self) -> int | None:
        """Bytes that each orthogonal layer may keep in eval mode: 0, or None for the layers' own limits."""
        return None if self.has_cache else 0

    @property
    def training_batch(self) -> int:
        """Images of a training step: the largest batch, but two at least, as batch norm wants."""
        return max(2, *self.batches)
