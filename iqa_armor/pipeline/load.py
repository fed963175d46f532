"""Open model files, and put defenses around the models."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from iqa_armor.artifact.storage import is_artifact, load_artifact, read_metadata
from iqa_armor.defenses.base import Defended, Threat, read_chain
from iqa_armor.defenses.defended import Purified, Smoothed
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.errors import ModelLoadError
from iqa_armor.models import ARCHITECTURES
from iqa_armor.models.base import KONIQ_SIZE, Preprocessing, QualityModel, ScoreScale
from iqa_armor.models.build import build
from iqa_armor.models.checkpoints import read_checkpoint
from iqa_armor.models.outputs import choose_output
from iqa_armor.models.weights import RESCALING, bare, listed, load_matching, load_strict, match_architecture
from iqa_armor.pipeline.card import record_of
from iqa_armor.pipeline.hub import fetched
from iqa_armor.pipeline.settings import Opening
from iqa_armor.randomness import seeded
from iqa_armor.registry import split_spec

logger = logging.getLogger(__name__)
UNAWARE = " (unaware attack)"  # attacks do not know the defense
THREATS: tuple[Threat, ...] = ("adaptive", "bare")


def load_model(path: Path | str, arch: str | None = None, *, opening: Opening | None = None) -> QualityModel:
    """Return the model stored in a file, in eval mode on the CPU.

    Args:
        path: An iqa-armor file, a state dict or a pickled module, told by its content; or `hf:owner/name` on the hub.
        arch: Architecture of a state dict; matched against the built-in ones by default.
        opening: The rest of what may be said about a foreign file.

    Raises:
        ModelLoadError: If the file cannot be opened as asked; says what would work.
    """
    opening = opening or Opening()
    _check(opening)
    named, path = Path(path), fetched(path)
    if not path.is_file():
        told = f"{path} is a folder, not a model file" if path.is_dir() else f"there is no model file {path}"
        raise ModelLoadError(told)
    arch = arch or opening.arch
    if is_artifact(path):
        if opening.score_output is not None:
            raise ModelLoadError(f"{path} is a model of iqa-armor and has one output, its score; leave --output away")
        arch, key = arch if read_metadata(path)["needs_source"] is True else None, ""
        made: nn.Module = load_artifact(path, None if arch is None else bare(build(arch)))
    else:
        made, arch, key = _load_foreign(path, arch, opening)
    model = _quality_model(made, opening, name=named.stem, arch=arch or "").eval()
    model.files = _files(path, key, arch)
    return model


def _files(weights: Path | str | None, key: str, arch: str | None) -> tuple[dict[str, str], ...]:
    spec = split_spec(arch or "")
    code = Path(spec[0]).expanduser() if spec and spec[0].endswith(".py") else None
    records = tuple(record_of(Path(file)) for file in (weights, code) if file is not None)
    return ({**records[0], "key": key}, *records[1:]) if key else records


def load_models(paths: Sequence[Path | str], opening: Opening | None = None) -> list[QualityModel]:
    """Return the models of several files, named apart: two files of one name are told by their folders."""
    opened = [load_model(path, opening=opening) for path in paths]
    stems = [Path(path).stem for path in paths]
    for model, path in zip(opened, map(Path, paths), strict=True):
        model.name = path.stem if stems.count(path.stem) == 1 else str(path)
    return opened


def start_model(
    arch: Path | str, *, opening: Opening, weights: Path | str | None = None, seed: int = 0
) -> tuple[QualityModel, tuple[str, ...] | None]:
    """Return a model to train, with its initial weights or those of a file where they fit, and its new tensors' names.

    These are None where nothing is from a file; an architecture's factory does not tell. `arch` may also be a model
    file. Raises ModelLoadError if there is no such architecture, or too few of the weights fit.
    """
    _check(opening)
    arch = str(arch)
    if arch.endswith(".py"):
        raise ModelLoadError(f"{arch} is Python source; name the function in it that makes the model: {arch}:FUNCTION")
    if Path(arch).is_file():
        # `train` calls its argument ARCH, which a file of weights is not.
        return load_model(arch, opening=opening.model_copy(update={"arch": None})), ()
    with seeded(seed):
        made = build(arch)
    _use_float32(made, arch)
    model, fresh, key = _quality_model(made, opening, name=arch.rpartition(":")[2], arch=arch), None, ""
    if weights is not None:
        stored = read_checkpoint(Path(weights), trust_pickle=opening.trust_pickle, weights_key=opening.weights_key)
        fresh, key = tuple(load_matching(model.network, stored.state, source=str(weights))), stored.key
        _say(*stored.remarks, f"weights from {weights}; new: {listed(fresh) or 'none'}")
    model.files = _files(weights, key, arch)
    return model, fresh


def _check(opening: Opening) -> None:
    """Refuse an impossible preprocessing or range before anything is read or built."""
    try:
        Preprocessing(**opening.preprocessing)
        if opening.score_range is not None:
            ScoreScale(*opening.score_range)
    except ValueError as error:
        raise ModelLoadError(str(error)) from error


def _load_foreign(path: Path, arch: str | None, opening: Opening) -> tuple[nn.Module, str, str]:
    """Return the pickled module of a file, or an architecture with its weights; the architecture; the weights' key."""
    stored = read_checkpoint(path, trust_pickle=opening.trust_pickle, weights_key=opening.weights_key)
    _say(*stored.remarks)
    if isinstance(stored.weights, nn.Module):
        logger.info("%s is a pickled %s", path, type(stored.weights).__name__)
        return stored.weights, "", stored.key
    if arch is None:
        arch = match_architecture(stored.weights, ARCHITECTURES)
        logger.info("%s holds the weights of a %s", path, arch)
    made = build(arch)
    _use_float32(made, path.stem, stored.weights)
    _say(load_strict(bare(made), stored.weights, source=f"{stored.key!r} of {path}" if stored.key else str(path)))
    return made, arch, stored.key


def _say(*remarks: str) -> None:
    for remark in filter(None, remarks):
        logger.info(remark)


def _quality_model(made: nn.Module, opening: Opening, *, name: str, arch: str = "") -> QualityModel:
    _use_float32(made, name)
    model = made if isinstance(made, QualityModel) else QualityModel(made, arch=arch)
    model.name = name
    if opening.preprocessing:
        model.set_preprocessing(replace(model.preprocessing, **opening.preprocessing))
    if model is not made:  # its preprocessing decides its scores
        used = model.preprocessing
        resized = "images at their own size" if used.size is None else "images resized to {}x{}".format(*used.size)
        logger.info("preprocessing: %s (%s), mean %s, std %s", resized, used.interpolation, used.mean, used.std)
    if opening.score_output is not None:
        size, generator = model.preprocessing.size or KONIQ_SIZE, torch.Generator().manual_seed(0)
        choose_output(model.network, opening.score_output, torch.rand(2, 3, *size, generator=generator))
    if opening.leaf or opening.allow_source:
        from iqa_armor.pipeline.inspect import keep_source

        keep_source(model, opening.leaf, allow=opening.allow_source)
    if opening.score_range is not None:
        model.scale = ScoreScale(*opening.score_range, higher_is_better=model.higher_is_better)
    model.higher_is_better = model.higher_is_better and not opening.lower_is_better
    return model


def _use_float32(made: nn.Module, name: str, stored: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """Cast a network, in place, to the precision of images, and say so if it or what it gets stored was in another."""
    weights = (value for key, value in stored.items() if key not in RESCALING)
    tensors = chain(made.parameters(), made.buffers(), weights)
    types = {str(value.dtype).removeprefix("torch.") for value in tensors if value.is_floating_point()} - {"float32"}
    if types:
        logger.info("%s has weights in %s, which are cast to float32", name, " and ".join(sorted(types)))
        made.float()


def defended_models(
    models: Sequence[QualityModel],
    purifiers: Sequence[str] = (),
    smoothers: Sequence[str] = (),
    *,
    threats: Sequence[Threat] = THREATS,
) -> list[QualityModel]:
    """Return the models themselves, then each behind each defense under each threat.

    A defense is a chain of purifiers, such as "jpeg:quality=60+flip", or a smoother, such as "ms:samples=100". Raises
    UsageError if a word or value is not allowed, ModelLoadError if a file of it or a model does not serve.
    """
    chains = [read_chain(word) for word in purifiers]
    parsed = [(word, SMOOTHERS.read(word)) for word in smoothers]
    behind: list[Defended] = []
    for model, threat in product(models, threats):
        behind += [Purified(model, chain, threat=threat) for chain in chains]
        behind += [Smoothed(model, smoother, word=word, threat=threat) for word, smoother in parsed]
    for defended in behind:
        defended.name += UNAWARE * (defended.threat == "bare")
    return [*models, *behind]


def defended_model(
    model: QualityModel, purifiers: Sequence[str] = (), smoother: str | None = None, *, threat: Threat = "adaptive"
) -> QualityModel:
    """Return a model behind purifiers, in their order, and a smoother around both; else as `defended_models`."""
    if purifiers:
        model = Purified(model, read_chain("+".join(purifiers)), threat=threat)
    if smoother is not None:
        model = Smoothed(model, SMOOTHERS.read(smoother), word=smoother, threat=threat)
    if isinstance(model, Defended) and model.threat == "bare":
        model.name += UNAWARE
    return model
