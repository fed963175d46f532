"""How scores are certified. Imports no torch."""

from typing import Annotated

from pydantic import Field, field_validator

from iqa_armor.settings import PASSING, Flag, Limit, OneOf, Seed, SettingsModel


class CertifySettings(SettingsModel):
    """How to certify; None leaves a setting to the method, and what a method's word says wins."""

    methods: Annotated[
        tuple[str, ...],
        OneOf("iqa_armor.defenses.smoothing:SMOOTHERS"),
        Flag(("--method",), metavar="NAME[:KEY=VALUE,…]"),
    ] = Field(
        ("ms",),
        min_length=1,
        description="ms and rs: median and mean over noisy images; dms, drs: with a denoiser in front; fs: median over "
        "noisy features, also fs:mode=calibrated. May be repeated; settings written here win over the options. "
        "Known are",
    )
    samples: Annotated[int | None, Flag(shown="1000")] = Field(None, ge=1, description="Noisy copies of an image.")
    sigma: Annotated[float | None, Flag(shown="0.12")] = Field(
        None, description="Standard deviation of the noise, pixels being in [0, 1], not in 1/255."
    )
    radius: Annotated[float | None, Flag(shown="0.05")] = Field(
        None, description="L2 length of the whole change, pixels being in [0, 1], not in 1/255."
    )
    confidence: Annotated[float | None, Flag(shown="0.999")] = Field(
        None, description="Of both bounds of an image together."
    )
    denoiser: Annotated[
        str | None, OneOf("iqa_armor.defenses.purifiers:PURIFIERS"), Flag(metavar="NAME[:KEY=VALUE,…]", shown="median")
    ] = Field(None, description="Purifier of dms and drs:")
    batch_size: Annotated[int | None, Flag(shown="16")] = Field(None, ge=1, description=PASSING)
    limit: Annotated[Limit, Flag(shown="all")] = None
    global_bound: bool = Field(True, description="Whether fs also gets the product bound of its backbone.")
    seed: Seed = 0

    @field_validator("methods")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))
