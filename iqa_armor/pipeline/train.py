"""Train a model on opinion scores, whose new head begins as a linear probe; or a purifier on attacks of a model."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.attacks.base import Attack, Direction
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.activations import replace_activations
from iqa_armor.defenses.purifiers.fcn import new_fcn, save_fcn
from iqa_armor.evaluation.scale import scale_of
from iqa_armor.metrics.correlation import srocc
from iqa_armor.metrics.fidelity import psnr, quality_score
from iqa_armor.metrics.robustness import gain_score
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.models.outputs import followed
from iqa_armor.pipeline.attack import build_attacks
from iqa_armor.pipeline.card import provenance_of, without_times
from iqa_armor.pipeline.fitting import RunOptions, calibration_batch, fit_to_opinion, moments_of, score_all
from iqa_armor.pipeline.forecast import Forecast, forecast, steps_of
from iqa_armor.progress import Progress
from iqa_armor.recipe import Training
from iqa_armor.surgery.edits import last_linear
from iqa_armor.training.filter_settings import FilterSettings, PurifierSettings
from iqa_armor.training.history import FitHistory, ScoreMoments
from iqa_armor.training.images import TrainingImages, load_training_images, predict
from iqa_armor.training.purifier import FittedFilter, fit_attacks, fit_filter

STRENGTHS = 10.0 ** torch.arange(-4, 5, 0.5, dtype=torch.float64)  # of the mean squared singular value
_FIDELITY = ("psnr_before", "psnr_after", "psnr_clean", "quality_before", "quality_after")
UNDONE = (*_FIDELITY, "gain_before", "gain_after", "gain_clean")
DIRECTIONS: dict[str, tuple[Direction, ...]] = {"up": (1,), "down": (-1,), "both": (1, -1)}


@dataclass(frozen=True, repr=False)
class Trained:
    """A trained model, in eval mode on the CPU, answering in the unit of the opinion scores."""

    model: QualityModel
    settings: Training
    fit: FitHistory
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        return f"Trained {self.model!r}" + "".join(f"\n  {epoch}" for epoch in self.fit.epochs[1:])

    def save(self, path: Path | str) -> None:
        """Write the model as one self-contained safetensors file, whole or not at all."""
        save_artifact(self.model, path, recipe=self.settings.model_dump(), provenance=without_times(self.provenance))


def train(
    model: QualityModel,
    dataset: Dataset,
    settings: Training,
    *,
    options: RunOptions | None = None,
    fresh: Collection[str] | None = None,
) -> Trained:
    """Return a traced copy of a model, fitted to the training split; the model itself is left untouched.

    Args:
        model: Architecture with initial or pretrained weights.
        dataset: Scored images; only its training split is used.
        settings: Epochs, step size, loss and the rest.
        options: How this machine does it.
        fresh: Names of the network's tensors that are not pretrained, which `activation_scope` "new" asks for; None
            says that none is pretrained.

    Raises:
        DataError: If images are missing or unreadable, before anything else starts.
        SurgeryError: If the model cannot be traced (its file could then not be opened without its source),
            or has no activation to replace.
    """
    options = options or RunOptions()
    images = load_training_images(dataset.training(), model, options.progress)
    traced = followed(model.network, calibration_batch(images, model, 2))
    smooth: list[str] = []
    if settings.activation != "keep":
        chosen = None if settings.activation_scope == "all" else fresh
        smooth = replace_activations(traced, settings.activation, fresh=chosen)
    # It learns opinion scores, of which more is better, whatever its scores meant before.
    copied = QualityModel(traced, model.preprocessing, name=model.name, arch=model.arch)
    facts = {"training": settings.model_dump(), "smooth_activations": smooth}
    checkpoint = options.checkpoint_of(model, dataset, images, **facts)
    labels = moments_of(images.mos)
    copied.to(options.device)
    probe = probe_head(copied, images, labels, fresh=fresh, progress=options.progress)
    history, _ = fit_to_opinion(
        copied, images, settings, then=labels, options=options, checkpoint=checkpoint, is_pretrained=fresh is not None
    )
    made = {"probe_srocc": probe, **history.facts(), "smooth_activations": smooth}
    return Trained(copied.eval(), settings, history, provenance_of(model, dataset, seed=settings.seed, **made))


def probe_head(
    model: QualityModel, images: TrainingImages, labels: ScoreMoments, *, fresh: object, progress: Progress
) -> float | None:
    """Set a traced model's new last layer, of one output, to the ridge regression of scores on its pooled features.

    The features are standardised, the scores by `labels`; the strength is the best on the held-out tenth, the SROCC on
    which is returned, or None where there is no such layer on the device, or it is not `fresh` (None: all are).
    Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
    2022, arXiv:2202.10054: linear probing, then fine-tuning.
    """
    place = last_linear(model.network) if isinstance(model.network, fx.GraphModule) else None
    layer = None if place is None else model.network.get_submodule(place)
    is_new = fresh is None or f"{place}.weight" in fresh  # type: ignore[operator]
    if not (isinstance(layer, nn.Linear) and layer.out_features == 1 and is_new):
        return None
    parts = (images.fitted, images.held_out)
    features, held = (_inputs_of(layer, model, part, progress) for part in parts)
    known, wanted = ((part.mos.double() - labels.center) / labels.spread for part in parts)
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    choices = ridge((features - mean) / std, known)
    found = ((held - mean) / std) @ choices
    best = int((found - wanted[:, None]).square().mean(0).argmin())
    weight = choices[:, best] / std
    with torch.no_grad():
        layer.weight.copy_(weight[None])
        layer.bias.copy_(known.mean() - mean @ weight)
    return float(srocc(found[:, best], wanted))


def ridge(features: Tensor, targets: Tensor) -> Tensor:
    """Return weights (D, K) of centred features (N, D) that predict targets (N,), at every one of K strengths."""
    # Minimising ‖A w − (y − ȳ)‖² + λ ‖w‖², λ being a strength times the mean squared singular value.
    left, singular, right = torch.linalg.svd(features, full_matrices=False)
    squared = singular.square()
    shrunk = singular / (squared + STRENGTHS[:, None] * squared.mean())
    weights: Tensor = right.mT @ (shrunk * (left.mT @ (targets - targets.mean()))).mT
    return weights


def _inputs_of(layer: nn.Module, model: QualityModel, images: object, progress: Progress) -> Tensor:
    """Return what a layer reads of every image, (N, D) in float64 on the CPU."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1).double().cpu())):
        predict(model, images, progress=progress, task="fitting the new head")  # type: ignore[arg-type]
    return torch.cat(seen)


def build_threats(settings: PurifierSettings) -> list[Attack]:
    attacks: list[Attack] = []
    for epsilon in settings.epsilons:
        for sign in DIRECTIONS[settings.direction]:
            attacks += build_attacks(settings.attacks, epsilon=epsilon, direction=sign).values()
    return list(dict.fromkeys(attacks))


def forecast_purifier(
    model: QualityModel, dataset: Dataset, settings: PurifierSettings, device: torch.device
) -> list[Forecast]:
    images, attacks = dataset.training().limit(settings.limit), build_threats(settings)
    image, passes = model.prepare(images[0]), settings.epochs if settings.fresh else 1
    work: dict[str, Any] = {"device": device, "images": len(images), "batch_size": settings.batch_size}
    steps = passes * sum(map(steps_of, attacks)) / len(attacks)
    network = nn.Sequential(new_fcn(settings.seed), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    filtering = forecast(QualityModel(network, name="filter"), image, epochs=settings.epochs, **work)
    return [forecast(model, image, calls=1, gradients=steps, **work), filtering]


@dataclass(frozen=True)
class TrainedPurifier:
    """A trained filter, in eval mode on the CPU, what it undoes, and what its file says of its origin.

    `undone` has means over held-out images attacked ("before"), attacked and purified ("after"), and purified only
    ("clean"): PSNR to the clean images, in dB, `metrics.quality_score` and `metrics.gain_score`; and their number.
    """

    fitted: FittedFilter
    undone: dict[str, float]
    provenance: dict[str, Any]

    def save(self, path: Path | str) -> None:
        """Write the filter as one safetensors file, whole or not at all."""
        save_fcn(self.fitted.network, path, provenance=without_times(self.provenance))


def train_purifier(
    model: QualityModel,
    dataset: Dataset,
    settings: PurifierSettings | None = None,
    *,
    options: RunOptions | None = None,
) -> TrainedPurifier:
    """Return a filter trained to undo attacks of a model, which is moved to the device and else left as it was.

    It is attacked without a purifier; where it has no score scale, its scores on these images give it. A tenth of the
    training split is held out. Raises DataError if images are missing or unreadable, too few, or differ in size,
    RecipeError if the checkpoint is another run's, ArmorError if an attack is unknown, or training fails.
    """
    options, settings = options or RunOptions(), settings or PurifierSettings()
    attacks = build_threats(settings)
    model.eval().to(options.device)
    images = load_training_images(dataset.training().limit(settings.limit), model, options.progress)
    scale = model.scale or scale_of(model, score_all(model, images, options.progress), images.names)
    checkpoint = options.checkpoint_of(model, dataset, images, settings=settings.model_dump())
    ready = fit_attacks(model, attacks, images.fitted, batch_size=settings.batch_size, seed=settings.seed)
    log_to, progress = options.log_to, options.progress
    fitted = fit_filter(
        model, images, ready, settings=settings, checkpoint=checkpoint, log_to=log_to, progress=progress
    )
    undone = _undone(model, fitted, scale, settings.batch_size)
    fitted.network.to("cpu")
    words, levels = list(map(str, settings.attacks)), [round(value * 255, 6) for value in settings.epsilons]
    threats = {"words": words, "epsilons": levels, "direction": settings.direction}
    used = {"training": len(images.fitted), "held_out": len(images.held_out)}
    epochs = [{**asdict(epoch), "loss": epoch.loss if epoch.number else None} for epoch in fitted.epochs]
    given = {"settings": settings.model_dump(include=set(FilterSettings.model_fields)), "attacks": threats}
    facts = {**given, "images_used": used, "epochs": epochs, "best_epoch": fitted.best, "held_out": undone}
    return TrainedPurifier(fitted, undone, provenance_of(model, dataset, seed=settings.seed, **facts))


@torch.no_grad()
def _undone(model: QualityModel, fitted: FittedFilter, scale: ScoreScale, batch_size: int) -> dict[str, float]:
    def normalised(images: Tensor) -> Tensor:
        return torch.as_tensor((model(images) - scale.low) / scale.width).cpu()

    rows: list[Sequence[Tensor]] = []
    for clean, attacked in fitted.held_out.batches(range(len(fitted.held_out)), batch_size, model.mean.device):
        purified, harmed = fitted.network(attacked), fitted.network(clean)
        score = normalised(clean)
        decibels = [psnr(clean, images).cpu() for images in (attacked, purified, harmed)]
        quality = [quality_score(clean, images).cpu() for images in (attacked, purified)]
        gains = [gain_score(score, normalised(images)) for images in (attacked, purified, harmed)]
        rows.append((*decibels, *quality, *gains))
    columns = zip(UNDONE, zip(*rows, strict=True), strict=True)
    return {**{name: float(torch.cat(column).mean()) for name, column in columns}, "images": len(fitted.held_out)}
