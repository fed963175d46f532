"""How a model is served. Imports no torch."""

from typing import Annotated, ClassVar

from pydantic import Field

from iqa_armor.settings import PASSING, Flag, SettingsModel


class Service(SettingsModel):
    """What a service takes, and how long it may take."""

    in_recipes: ClassVar[bool] = False

    batch_size: int = Field(8, ge=1, description=PASSING)
    wait: Annotated[float, Flag(metavar="MS")] = Field(
        5.0, ge=0, le=10_000, description="Milliseconds that an image waits for others to be scored with."
    )
    timeout: Annotated[float, Flag(metavar="SECONDS")] = Field(
        30.0, gt=0, description="Most that a request may take, from its first byte on."
    )
    max_size: Annotated[float, Flag(metavar="MB")] = Field(20.0, gt=0, description="Largest file taken, in megabytes.")
    max_pixels: Annotated[float, Flag(metavar="MILLIONS")] = Field(
        50.0, gt=0, description="Largest image taken, in millions of pixels."
    )
    max_waiting: int = Field(256, ge=1, description="Images that may wait to be scored; more are turned away.")
