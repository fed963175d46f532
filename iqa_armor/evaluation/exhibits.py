"""Single images of an evaluation for its report: scores before and after, and the worst ones to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from iqa_armor.attacks.base import Attack, frozen
from iqa_armor.attacks.budgets import budget_key
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.base import Defended
from iqa_armor.evaluation.planning import generator_for, plan_attacks, reseed
from iqa_armor.evaluation.protocol import Evaluation
from iqa_armor.evaluation.run import on_device, prepare_for, reported_images
from iqa_armor.evaluation.scoring import ImageScores
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.surface import surface_of
from iqa_armor.models.base import QualityModel
from iqa_armor.results import Exhibit, Picture, Points

LONGEST_SIDE = 384  # of a shown image, so that a report stays light
MAGNIFIED = 20
WEBP_QUALITY = 90


@dataclass(frozen=True)
class _Place:
    """Where a shown image comes from, and how much its score moved."""

    model: QualityModel
    dataset: Dataset
    number: int
    gain: float


def build_exhibit(
    evaluation: Evaluation,
    models: Sequence[QualityModel],
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
    *,
    attack: str,
    budget: str,
    pictures: int = 3,
    most: int = 12,
) -> Exhibit:
    """Return the scores of all images under one attack, and for each model the images that it moved most.

    Of many models there are fewer each; bare ones come first then, those under attacks unaware of the defense last.
    Those images are attacked once more, one by one, and their scores are those of that.

    Args:
        evaluation: What `evaluate` returned for these models, datasets and settings.
        models: Left as they were.
        datasets: Read again where pictures are shown.
        settings: Of the evaluation.
        attack: Name of an attack of the evaluation.
        budget: Key of one of its budgets.
        pictures: Most images per model.
        most: Most images of all models.
    """
    points = tuple(
        _points(model.name, dataset.spec, evaluation.scores[model.name][dataset.spec], attack, budget)
        for model in models
        for dataset in datasets
    )
    shown: list[Picture] = []
    each = min(pictures, max(1, most // len(models)))
    for model in sorted(models, key=_place_of)[:most] if len(models) > most else models:
        places = _worst(model, datasets, evaluation, attack=attack, budget=budget)[:each]
        shown += _pictures(model, datasets, settings, places, attack=attack, budget=budget)
    return Exhibit(points, tuple(shown))


def _place_of(model: QualityModel) -> int:
    return (1 if model.threat == "adaptive" else 2) if isinstance(model, Defended) else 0


def _points(model: str, dataset: str, scores: ImageScores, attack: str, budget: str) -> Points:
    return Points(
        model=model,
        dataset=dataset,
        attack=attack,
        budget=budget,
        names=scores.names,
        mos=None if scores.mos is None else tuple(scores.mos.tolist()),
        clean=tuple(scores.clean.tolist()),
        attacked=tuple(scores.attacked[attack][budget].tolist()),
    )


def _worst(
    model: QualityModel, datasets: Sequence[Dataset], evaluation: Evaluation, *, attack: str, budget: str
) -> list[_Place]:
    """Return all images, the one that the attack moved most first."""
    (entry,) = (entry for entry in evaluation.outcome.models if entry.name == model.name)
    width = entry.scale.high - entry.scale.low
    places = []
    for dataset in datasets:
        scores = evaluation.scores[model.name][dataset.spec]
        gains = (scores.attacked[attack][budget] - scores.clean) / width
        places += [_Place(model, dataset, number, gain) for number, gain in enumerate(gains.tolist())]
    direction = evaluation.outcome.settings.direction
    return sorted(places, key=lambda place: -direction * place.gain)


def _pictures(
    model: QualityModel,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
    places: Sequence[_Place],
    *,
    attack: str,
    budget: str,
) -> list[Picture]:
    with on_device(model, settings.device), frozen(model):
        plan = plan_attacks(model, datasets, replace(settings, attacks=(attack,)))
        (chosen,) = (each for each in plan[attack] if budget_key(each) == budget)
        return [_picture(place, chosen, settings, attack=attack, budget=budget) for place in places]


def _picture(place: _Place, chosen: Attack, settings: EvaluationSettings, *, attack: str, budget: str) -> Picture:
    images = reported_images(place.dataset, settings)
    clean = prepare_for(place.model, place.dataset)(images[place.number])[None].to(settings.device)
    generator = generator_for(settings, "show", attack, place.number)
    reseed(place.model, settings, "show", attack, place.number)
    attacked = chosen(surface_of(place.model, settings.eot), clean, generator)
    with torch.no_grad():
        before, after = (float(place.model(shown)) for shown in (clean, attacked))
    difference = (0.5 + MAGNIFIED * (attacked - clean)).clamp(0, 1)
    return Picture(
        model=place.model.name,
        dataset=place.dataset.spec,
        attack=attack,
        budget=budget,
        name=images.names[place.number],
        clean_score=before,
        attacked_score=after,
        gain=place.gain,
        clean=_file_of(clean),
        attacked=_file_of(attacked),
        difference=_file_of(difference),
    )


def _file_of(images: Tensor) -> bytes:
    """Return one image (1, 3, H, W) in [0, 1] as a WebP file of at most `LONGEST_SIDE` pixels a side."""
    levels = (images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(levels)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()
