"""What an evaluation found, with stable names, and its JSON."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from iqa_armor.errors import DataError
from iqa_armor.results.figures import ModelEntry, Number, Value


class Document(Value):
    """A value with a JSON file of its own, which names its schema; figures that are not defined are null there."""

    @model_serializer(mode="wrap")
    def _call_schema_by_its_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # `schema` itself is a method of pydantic's models, so the field carries an underscore.
        dumped = handler(self)
        schema = dumped.pop("schema_", None) or dumped.pop("schema")
        return {"schema": schema, **dumped}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the JSON text."""
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
        """Way that gains are counted in."""
        return -1 if self.direction == -1 else 1

    def ranking_keys(self) -> tuple[str, ...]:
        """Return the budget keys of the attack on the ranking."""
        return tuple(f"{epsilon:g}" for epsilon in self.ranking_epsilons)

    def keys(self) -> dict[str, tuple[str, ...]]:
        """Return the budget keys of each attack."""
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
        """The baseline's own entry, if there is one."""
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
