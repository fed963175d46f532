"""What an evaluation, and what certifying models by smoothing found, with stable names, and their JSON."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from iqa_armor.errors import DataError
from iqa_armor.results.figures import ModelEntry, Number, Scale, Value


class Document(Value):
    """A value with a JSON file of its own, which names its schema; figures that are not defined are null there."""

    @model_serializer(mode="wrap")
    def _call_schema_by_its_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # `schema` itself is a method of pydantic's models, so the field carries an underscore.
        dumped = handler(self)
        schema = dumped.pop("schema_", None) or dumped.pop("schema")
        return {"schema": schema, **dumped}

    def to_json(self, *, indent: int | None = 2) -> str:
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what `to_json` wrote, in this version or an earlier one; a DataError if it is of another schema."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            schema = cls.model_fields["schema_"].default
            raise DataError(f"not of schema {schema}: {place}: {first['msg']}") from error


class DataEntry(Value):
    """One dataset: what was evaluated and how much it counts in combined figures."""

    spec: str
    split: str
    images: int
    has_scores: bool
    is_synthetic: bool = False
    keeps_size: bool = False
    weight: float
    fingerprint: str


class Settings(Value):
    """How the evaluation was run; budgets in 1/255.

    `budgets` has, for each attack, the keys that its figures go by: those of `epsilons`, or one of its own.
    """

    attacks: dict[str, dict[str, float | int | str]]
    budgets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    epsilons: tuple[float, ...]
    direction: Literal[1, -1, "rank"] = 1
    ranking: str = "none"
    ranking_epsilons: tuple[float, ...] = ()
    batch_size: int
    limit: int | None = None
    device: str = "cpu"
    seed: int = 0
    eot: int = 1
    resamples: int
    confidence: float

    @property
    def sign(self) -> Literal[1, -1]:
        return -1 if self.direction == -1 else 1

    def ranking_keys(self) -> tuple[str, ...]:
        return tuple(f"{epsilon:g}" for epsilon in self.ranking_epsilons)

    def keys(self) -> dict[str, tuple[str, ...]]:
        swept = tuple(f"{epsilon:g}" for epsilon in self.epsilons)
        return {attack: self.budgets.get(attack, swept) for attack in self.attacks}


class Outcome(Document):
    """Everything an evaluation reports; over several `seeds` means, with deviations by model and path in `spread`."""

    schema_: Literal["iqa-armor/evaluation/1"] = Field("iqa-armor/evaluation/1", alias="schema")
    models: tuple[ModelEntry, ...]
    baseline: str | None = None
    data: tuple[DataEntry, ...]
    settings: Settings
    versions: dict[str, str]
    seeds: tuple[int, ...] = ()
    spread: dict[str, dict[str, Number]] = Field(default_factory=dict)

    @property
    def compared(self) -> tuple[ModelEntry, ...]:
        """Models that stand beside the baseline; all of them where there is none."""
        return tuple(model for model in self.models if model.name != self.baseline) or self.models

    @property
    def baseline_entry(self) -> ModelEntry | None:
        return next((model for model in self.models if model.name == self.baseline), None)


@dataclass(frozen=True)
class Picture:
    """One attacked image beside its original, and mid-grey plus 20 times the change, as files that browsers show.

    Scores are in model units, the gain in score ranges of the model; the other names are those of the outcome.
    """

    model: str
    dataset: str
    attack: str
    budget: str
    name: str
    clean_score: float
    attacked_score: float
    gain: float
    clean: bytes
    attacked: bytes
    difference: bytes


class CertifiedImage(Value):
    """One image: plain and smoothed score with bounds, in model units; a bound is null where the method abstains.

    `seconds` is what the smoothed score and its bounds took.
    """

    name: str
    mos: Number = None
    score: Number
    smoothed: Number
    lower: Number
    upper: Number
    abstained: bool
    seconds: float

    @property
    def delta(self) -> float | None:
        """Certified delta, upper − lower bound; None where the method abstains."""
        return None if self.upper is None or self.lower is None else self.upper - self.lower


class MethodFigures(Value):
    """One method on one model.

    `delta` is the mean distance of the bounds of images for which the method does not abstain, in model units,
    `delta_share` the same in score ranges, `ratio_to_baseline` that share over the baseline's, from images for which
    neither abstains. Agreement with opinion is that of the smoothed score. Seconds are medians per image: of the
    smoothed score alone, and with bounds. Where noise is put on features, `jacobian` is the largest s that was used,
    how far they move per unit of change near an image, and `lipschitz` how far they can move anywhere, where that could
    be computed.
    """

    guarantee: str
    settings: dict[str, bool | int | float | str]
    delta: Number = None
    delta_share: Number = None
    ratio_to_baseline: Number = None
    abstained: float
    srocc: Number = None
    plcc: Number = None
    seconds_smoothed: Number = None
    seconds_certified: Number = None
    jacobian: Number = None
    lipschitz: Number = None
    images: tuple[CertifiedImage, ...]

    @property
    def radius(self) -> float | None:
        """Radius of the certificate, pixels being in [0, 1], where the method has one."""
        value = self.settings.get("radius")
        return float(value) if isinstance(value, int | float) else None


class CertifiedModel(Value):
    """One model: its plain score, and its methods by the words that name them.

    `size` is (height, width) of the first image as the network sees it, and `step_l2` the Euclidean length of one
    step of 1/255 on every value of such an image, in the unit of the radius.
    """

    name: str
    arch: str = ""
    scale: Scale | None = None
    size: tuple[int, int]
    step_l2: float
    srocc: Number = None
    plcc: Number = None
    seconds_plain: Number = None
    methods: dict[str, MethodFigures]


class Certification(Document):
    """Everything that certifying reports; `data` is null where image files were named."""

    schema_: Literal["iqa-armor/certification/1"] = Field("iqa-armor/certification/1", alias="schema")
    models: tuple[CertifiedModel, ...]
    baseline: str | None = None
    data: DataEntry | None = None
    seed: int = 0
    device: str = "cpu"
    versions: dict[str, str]
