"""What commands are told of model files, benchmarks, certificates, services and filters. Imports no torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from iqa_armor import settings
from iqa_armor.settings import CallSettings, Flag, OneOf, Positive, SettingsModel

_COLOURS = Flag(kind=str)
_SMOOTHERS = OneOf("iqa_armor.defenses.smoothing:SMOOTHERS")
EACH_ONCE = AfterValidator(lambda values: tuple(dict.fromkeys(values)))


def _read_own_size(value: Any) -> Any:
    try:
        return value if value == "own" else settings.read_size(value)
    except ValueError as error:
        raise ValueError(f"{error}, or 'own'") from None


_OwnSize = tuple[Positive, Positive] | Literal["own"]
_OWN_SIZE = Flag(kind=str, written=lambda size: size if size == "own" else "{}x{}".format(*size))


class Opening(CallSettings):
    """What a user says of a foreign model file; None is nothing."""

    panel: ClassVar[str] = "Foreign model files"
    arch: str | None = None
    weights_key: str | None = None
    input_size: Annotated[_OwnSize | None, BeforeValidator(_read_own_size), _OWN_SIZE] = None
    mean: Annotated[settings.Triple | None, _COLOURS] = None
    std: Annotated[settings.Triple | None, _COLOURS] = None
    interpolation: Literal["nearest", "nearest-exact", "bilinear", "bicubic"] | None = None
    score_output: Annotated[str | None, Flag(("--output",))] = None
    leaf: tuple[str, ...] = ()
    allow_source: bool = False
    score_range: Annotated[settings.Pair | None, Flag(kind=str)] = None
    lower_is_better: bool = False
    trust_pickle: bool = False

    @property
    def preprocessing(self) -> dict[str, Any]:
        given = {"size": self.input_size, "interpolation": self.interpolation, "mean": self.mean, "std": self.std}
        return {name: None if value == "own" else value for name, value in given.items() if value is not None}


class BenchSettings(SettingsModel):
    """What to measure, and how often."""

    size: Annotated[settings.Size | None, Flag(kind=str)] = None
    batches: Annotated[tuple[Positive, ...], EACH_ONCE, Flag(("--batch",))] = Field((1, 8), min_length=1)
    repeats: int = Field(10, ge=1)
    has_cache: Annotated[bool, Flag(("--cache/--no-cache",))] = True
    has_training: Annotated[bool, Flag(("--training/--no-training",))] = True
    has_memory: Annotated[bool, Flag(("--memory/--no-memory",))] = True

    @property
    def cache_limit(self) -> int | None:
        """Bytes that each orthogonal layer may keep in eval mode: 0, or None for the layers' own limits."""
        return None if self.has_cache else 0

    @property
    def training_batch(self) -> int:
        """Images of a training step: the largest batch, but two at least, as batch norm wants."""
        return max(2, *self.batches)


class CertifySettings(SettingsModel):
    """How to certify; None leaves a setting to the method, and what a method's word says wins."""

    methods: Annotated[tuple[str, ...], EACH_ONCE, _SMOOTHERS, Flag(("--method",))] = Field(("ms",), min_length=1)
    samples: int | None = Field(None, ge=1)
    sigma: float | None = None
    radius: float | None = None
    confidence: float | None = None
    denoiser: Annotated[str | None, OneOf("iqa_armor.defenses.purifiers:PURIFIERS")] = None
    batch_size: int | None = Field(None, ge=1)
    limit: settings.Limit = None
    global_bound: bool = True
    seed: settings.Seed = 0


class Service(CallSettings):
    """Where a service listens, what it takes, and how long it may take."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    batch_size: int = Field(8, ge=1)
    wait: float = Field(5.0, ge=0, le=10_000)
    timeout: float = Field(30.0, gt=0)
    max_size: float = Field(20.0, gt=0)
    max_pixels: float = Field(50.0, gt=0)
    max_waiting: int = Field(256, ge=1)
