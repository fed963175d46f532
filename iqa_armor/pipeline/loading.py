"""Open any model a user may have: our own file, a foreign state dict, a pickled module."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from iqa_armor.artifact import is_artifact, load_artifact
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.architectures import ARCHITECTURES
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.models.checkpoints import load_matching, load_strict, match_architecture, read_state
from iqa_armor.models.factories import build
from iqa_armor.pipeline.opening import Opening
from iqa_armor.randomness import seeded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A model to train.

    Args:
        model: Architecture with its first weights.
        fresh: Names of the network's tensors that come from no file; None where none does.
    """

    model: QualityModel
    fresh: tuple[str, ...] | None


def load_model(path: Path | str, arch: str | None = None, *, opening: Opening | None = None) -> QualityModel:
    """Return the model stored in a file, in eval mode on the CPU.

    Args:
        path: An iqa-armor file, a state dict (.pt .pth .pkl .ckpt .th .safetensors) or a pickled module.
        arch: Architecture of a state dict; matched against the built-in ones by default.
        opening: The rest of what may be said about a foreign file.

    Raises:
        ModelLoadError: If the file cannot be opened as asked; says what would work.
    """
    path, opening = Path(path), opening or Opening()
    arch = arch or opening.arch
    if not path.is_file():
        raise ModelLoadError(
            f"{path} is a folder, not a model file" if path.is_dir() else f"there is no model file {path}"
        )
    model = load_artifact(path) if is_artifact(path) else _open_foreign(path, arch, opening)
    model.name = path.stem
    if opening.preprocessing:
        model = _changed(model, opening.preprocessing)
    return _with_scale(model, opening).eval()


def new_model(arch: str, *, opening: Opening, weights: Path | None = None, seed: int = 0) -> QualityModel:
    """Return the model of `start_model`, which takes and refuses the same."""
    return start_model(arch, opening=opening, weights=weights, seed=seed).model


def load_models(paths: Sequence[Path], opening: Opening) -> list[QualityModel]:
    """Return the models of several files, named apart: two files of one name are told by their folders."""
    opened = [load_model(path, opening=opening) for path in paths]
    stems = [path.stem for path in paths]
    for model, path in zip(opened, paths, strict=True):
        model.name = path.stem if stems.count(path.stem) == 1 else str(path)
    return opened


def start_model(arch: str, *, opening: Opening, weights: Path | None = None, seed: int = 0) -> Start:
    """Return a model to train: an architecture with its initial weights, or those of a file where they fit.

    Weights that an architecture's factory brings along count as fresh, since it does not tell.

    Args:
        arch: Architecture as in `Opening`, or a model file to train further.
        opening: Preprocessing and score direction.
        weights: Checkpoint whose tensors are taken where name and shape agree.
        seed: Of the initial weights.

    Raises:
        ModelLoadError: If there is no such architecture, or too few of the weights fit.
    """
    if arch.endswith(".py"):
        raise ModelLoadError(f"{arch} is Python source; name the function in it that makes the model: {arch}:FUNCTION")
    if Path(arch).is_file():
        return Start(load_model(arch, opening=opening), ())
    with seeded(seed):
        model = _built(arch, opening)
    model.name = arch.rpartition(":")[2]
    fresh: tuple[str, ...] | None = None
    if weights is not None:
        state = _as_state(read_state(weights, trust_pickle=opening.trust_pickle))
        fresh = tuple(load_matching(model.network, state, source=str(weights)))
        shown = ", ".join(fresh[:10]) + (f" and {len(fresh) - 10} more" if len(fresh) > 10 else "")
        logger.info("weights from %s; new: %s", weights, shown or "none")
    return Start(_with_scale(model, opening), fresh)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_foreign(path: Path, arch: str | None, opening: Opening) -> QualityModel:
    stored = read_state(path, trust_pickle=opening.trust_pickle)
    if isinstance(stored, QualityModel):
        return stored
    if isinstance(stored, nn.Module):
        logger.info("%s is a pickled %s", path, type(stored).__name__)
        return _announced(QualityModel(stored, _made(Preprocessing(), opening.preprocessing)))
    if arch is None:
        arch = match_architecture(stored, ARCHITECTURES)
        logger.info("%s holds the weights of a %s", path, arch)
    model = _built(arch, opening)
    load_strict(model.network, stored, source=str(path))
    return model


def _built(arch: str, opening: Opening) -> QualityModel:
    """Return a new model of an architecture; what the user said of the preprocessing wins."""
    made = build(arch, ARCHITECTURES)
    if isinstance(made, QualityModel):
        return _changed(made, opening.preprocessing) if opening.preprocessing else made
    return _announced(QualityModel(made, _made(Preprocessing(), opening.preprocessing), arch=arch))


def _announced(model: QualityModel) -> QualityModel:
    """Say the preprocessing that a bare network was given, since it decides its scores."""
    used = model.preprocessing
    size = "images at their own size" if used.size is None else "images resized to {}x{}".format(*used.size)
    logger.info("preprocessing: %s (%s), mean %s, std %s", size, used.interpolation, used.mean, used.std)
    return model


def _made(base: Preprocessing, changes: Mapping[str, Any]) -> Preprocessing:
    try:
        return Preprocessing(**{**base.__dict__, **changes})
    except ValueError as error:
        raise ModelLoadError(str(error)) from error


def _changed(model: QualityModel, changes: Mapping[str, Any]) -> QualityModel:
    return model.with_preprocessing(_made(model.preprocessing, changes))


def _with_scale(model: QualityModel, opening: Opening) -> QualityModel:
    """Return the model with what the user said of its scores."""
    rising = model.higher_is_better and not opening.lower_is_better
    scale = model.scale and replace(model.scale, higher_is_better=rising)
    if opening.score_range is not None:
        try:
            scale = ScoreScale(*opening.score_range, higher_is_better=rising)
        except ValueError as error:
            raise ModelLoadError(f"--score-range: {error}") from error
    return QualityModel(
        model.network,
        model.preprocessing,
        scale=scale,
        higher_is_better=rising,
        name=model.name,
        arch=model.arch,
    )


def _as_state(stored: Any) -> dict[str, Any]:
    state: dict[str, Any] = stored.state_dict() if isinstance(stored, nn.Module) else stored
    return state
