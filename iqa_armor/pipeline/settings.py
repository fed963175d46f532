"""What commands are told of model files, benchmarks, certificates, services and filters. Imports no torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from iqa_armor import settings
from iqa_armor.settings import CallSettings, Flag, OneOf, Positive, SettingsModel

_COLOURS = Flag(kind=str, metavar="R,G,B", shown="ImageNet's")


EACH_ONCE = AfterValidator(lambda values: tuple(dict.fromkeys(values)))


def _read_own_size(value: Any) -> Any:
    try:
        return value if value == "own" else settings.read_size(value)
    except ValueError as error:
        raise ValueError(f"{error}, or 'own'") from None


class Opening(CallSettings):
    """What a user says of a foreign model file; None is nothing."""

    panel: ClassVar[str] = "Foreign model files"
    arch: str | None = Field(
        None,
        description="Architecture of a state dict: a built-in name such as resnet50, timm:NAME, pyiqa:NAME (licensed "
        "for non-commercial use), package.module:factory or path/file.py:factory. Without it the weights are matched "
        "against the built-in ones.",
    )
    weights_key: Annotated[str | None, Flag(metavar="KEY", shown="averaged ones, else the usual")] = Field(
        None,
        description="Which weights of a checkpoint to open: a key such as model_ema, keys joined by dots, or how the "
        "names of the tensors begin.",
    )
    input_size: Annotated[
        tuple[Positive, Positive] | Literal["own"] | None,
        BeforeValidator(_read_own_size),
        Flag(kind=str, metavar="HEIGHTxWIDTH", shown="498x664, or the architecture's", written=settings.write_size),
    ] = Field(None, description="Size images are resized to before the network, or 'own' to keep theirs.")
    mean: Annotated[settings.Triple | None, _COLOURS] = Field(None, description="Mean of the normalisation.")
    std: Annotated[settings.Triple | None, _COLOURS] = Field(None, description="Divisor of the normalisation.")
    interpolation: Annotated[
        Literal["nearest", "nearest-exact", "bilinear", "bicubic"] | None, Flag(shown="bilinear, antialiased")
    ] = Field(None, description="Resampling of the resize.")
    score_output: Annotated[str | None, Flag(("--output",), metavar="NAME|INDEX|mean")] = Field(
        None,
        description="Which of several outputs is the score: a name, an index, or the mean, of a distribution over bins "
        "worth 1 to K or else of all. Files are written by -o.",
    )
    leaf: Annotated[tuple[str, ...], Flag(metavar="MODULE")] = Field(
        (),
        description="Module that stays its author's code: surgery works around it, and the file opens only beside its "
        "--arch.",
    )
    allow_source: bool = Field(
        False, description="Let all modules that cannot be traced or stored stay their author's code."
    )
    score_range: Annotated[
        settings.Pair | None, Flag(kind=str, metavar="LOW,HIGH", shown="measured where images are at hand")
    ] = Field(None, description="Range of the model's scores on clean training images.")
    lower_is_better: bool = Field(False, description="Small scores mean good quality.")
    trust_pickle: bool = Field(
        False, description="Open a file although it may run its author's code. Only for authors you trust."
    )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Fields of `Preprocessing` that the user gave."""
        given = {"size": self.input_size, "interpolation": self.interpolation, "mean": self.mean, "std": self.std}
        return {name: None if value == "own" else value for name, value in given.items() if value is not None}


class BenchSettings(SettingsModel):
    """What to measure, and how often."""

    size: Annotated[settings.Size | None, Flag(kind=str, metavar="HEIGHTxWIDTH", shown="each model's own")] = Field(
        None, description="Size of the images."
    )
    batches: Annotated[tuple[Positive, ...], EACH_ONCE, Flag(("--batch",))] = Field(
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

    methods: Annotated[
        tuple[str, ...],
        EACH_ONCE,
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
    batch_size: Annotated[int | None, Flag(shown="16")] = Field(None, ge=1, description=settings.PASSING)
    limit: Annotated[settings.Limit, Flag(shown="all")] = None
    global_bound: bool = Field(True, description="Whether fs also gets the product bound of its backbone.")
    seed: settings.Seed = 0


class Service(CallSettings):
    """What a service takes, and how long it may take."""

    batch_size: int = Field(8, ge=1, description=settings.PASSING)
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
