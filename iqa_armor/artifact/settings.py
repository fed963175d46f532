"""Everything of an artifact beside its network: preprocessing, score scale, names, recipe and provenance."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import PurePath
from typing import TypeVar

from torch import nn

from iqa_armor.artifact import checks
from iqa_armor.artifact.checks import MAX_NAME, ArgumentCheck, FormatError, checked_fields, number, optional, sequence
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.models.training_scores import RANKS, TrainingScores

T = TypeVar("T")
TRAINING = "training_scores"
PREPROCESSING: dict[str, ArgumentCheck] = {
    "size": optional(sequence(checks.integer(1, 2**14), 2)),
    "interpolation": checks.choice("nearest", "nearest-exact", "bilinear", "bicubic"),
    "antialias": checks.flag,
    "mean": sequence(number(), 3),
    "std": sequence(number(1e-12), 3),
}
RANKED = sequence(number(), RANKS)
TRAINING_SCORES: dict[str, ArgumentCheck] = {"scores": RANKED, "opinions": checks.either(RANKED, sequence(number(), 0))}
_printable = checks.must_be(
    f"printable text of at most {MAX_NAME} characters",
    lambda text: isinstance(text, str) and len(text) <= MAX_NAME and text.isprintable(),
)
NAMES = {"name": _printable, "arch": _printable}
SCORE_SCALE: dict[str, ArgumentCheck] = {"low": number(), "high": number(), "higher_is_better": checks.flag}


def describe(model: QualityModel) -> dict[str, object]:
    """Return a model's names, preprocessing, score scale and what its training images scored as JSON values."""
    known = model.training_scores
    return {
        **({} if known is None else {TRAINING: plain(asdict(known))}),
        "name": model.name,
        "arch": model.arch,
        "preprocessing": plain(asdict(model.preprocessing)),
        "score_scale": None if model.scale is None else plain(asdict(model.scale)),
    }


def model_of(document: Mapping[str, object], network: nn.Module) -> QualityModel:
    """Return the model of a network that a document tells of, as `describe` has told of it."""
    preprocessing = Preprocessing(**checked_fields(document["preprocessing"], PREPROCESSING, "preprocessing"))
    scale = _made(ScoreScale, document["score_scale"], SCORE_SCALE, "score_scale")
    model = QualityModel(network, preprocessing, scale=scale, **read_names(document))  # type: ignore[arg-type]
    model.training_scores = _made(TrainingScores, document.get(TRAINING), TRAINING_SCORES, TRAINING)
    return model


def _made(kind: Callable[..., T], stored: object, fields: Mapping[str, ArgumentCheck], where: str) -> T | None:
    try:
        return None if stored is None else kind(**checked_fields(stored, fields, where))
    except ValueError as error:
        raise FormatError(str(error)) from error


def read_names(document: Mapping[str, object]) -> dict[str, str]:
    """Return the `name` and `arch` of a model, printable texts of bounded length."""
    return checked_fields({field: document[field] for field in NAMES}, NAMES, "its description")


def plain(value: object, where: str = "value") -> object:
    """Return a copy made of JSON values only; NaN and infinities become null, paths text; others a ValueError."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(part, f"{where}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, Mapping):
        if unnamed := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{where} must have text keys, got {checks.shown(unnamed[0])}")
        return {key: plain(part, f"{where}.{key}") for key, part in value.items()}
    raise ValueError(f"{where} must hold JSON values only, got {type(value).__name__}: {checks.shown(value)}")


def check_record(value: object, where: str) -> None:
    """Check that a record (recipe or provenance) is a JSON object whose texts hold no control characters."""
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object, got {checks.shown(value)}")
    pending: list[object] = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            pending += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            pending += part
        elif isinstance(part, str) and not part.replace("\n", "").replace("\t", "").isprintable():
            raise FormatError(f"{where} holds control characters: {checks.shown(part)}")
