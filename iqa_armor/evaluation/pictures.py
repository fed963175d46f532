"""Pictures of an evaluation for its report: the images whose scores an attack moved most."""

import io

import torch
from PIL import Image
from torch import Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.budgets import budget_key
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.base import Defended
from iqa_armor.evaluation.evaluation import Evaluation
from iqa_armor.evaluation.run import Run, followed_score, on_device, prepare_for, restart
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, automatic
from iqa_armor.results.outcome import Picture
from iqa_armor.results.table import CLEAN

LONGEST_SIDE = 384  # of a shown image, so that a report stays light
MAGNIFIED = 20
_Place = tuple[float, Dataset, int]  # how much a score moved, in score ranges, and the image: a number in its dataset


def take_pictures(
    evaluation: Evaluation, *, attack: str, budget: str, each: int = 3, most: int = 12, progress: Progress = automatic
) -> tuple[Picture, ...]:
    """Return, for each model, the images that an attack moved most, attacked once more, one by one.

    There are at most `each` per model and `most` of all; of many models fewer each: bare ones come first then, those
    under attacks unaware of the defense last. The budget is a key of one of the attack's; nothing is learned again.
    """
    models, run, shown = evaluation.models, evaluation.run, min(each, max(1, most // len(evaluation.models)))
    pictures: list[Picture] = []
    ranks = {"adaptive": 1, "bare": 2}
    first = sorted(models, key=lambda model: ranks[model.threat] if isinstance(model, Defended) else 0)[:most]
    for model in first if len(models) > most else models:
        places = _most_moved(evaluation, model, attack=attack, budget=budget)[:shown]
        with on_device(model, run.device), frozen(model):
            for number, place in enumerate(places, start=1):
                pictures.append(_picture(run, model, place, attack=attack, budget=budget))
                progress(f"taking pictures of {model.name}", number, len(places))
    return tuple(pictures)


def _most_moved(evaluation: Evaluation, model: QualityModel, *, attack: str, budget: str) -> list[_Place]:
    """Return all images, the one that the attack moved most first."""
    (entry,) = (entry for entry in evaluation.outcome.models if entry.name == model.name)
    rows, places = evaluation.table.where(model=model.name), []
    for dataset in evaluation.run.datasets:
        found = rows.where(dataset=dataset.spec)
        moved = found.where(attack=attack, budget=budget)["score"] - found.where(attack=CLEAN)["score"]
        places += [(gain, dataset, number) for number, gain in enumerate((moved / entry.scale.width).tolist())]
    way = evaluation.run.settings.direction
    return sorted(places, key=lambda place: -abs(place[0]) if way == "rank" else -way * place[0])


def _picture(run: Run, model: QualityModel, place: _Place, *, attack: str, budget: str) -> Picture:
    gain, dataset, number = place
    images = run.images(dataset)
    (chosen,) = (each for each in run.attack(model, attack) if budget_key(each) == budget)
    clean = prepare_for(model, dataset)(images[number])[None].to(run.device)
    source = restart(model, run.settings.seed, "show", attack, number)
    attacked = chosen(followed_score(model, run.settings.eot), clean, source)
    with torch.no_grad():
        before, after = (float(model(shown)) for shown in (clean, attacked))
    first, second, change = map(_file_of, (clean, attacked, (0.5 + MAGNIFIED * (attacked - clean)).clamp(0, 1)))
    name, scores = images.names[number], (before, after, gain)
    return Picture(model.name, dataset.spec, attack, budget, name, *scores, first, second, change)


def _file_of(images: Tensor) -> bytes:
    """Return one image (1, 3, H, W) in [0, 1] as a WebP file of at most `LONGEST_SIDE` pixels a side."""
    picture = Image.fromarray((images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90)
    return buffer.getvalue()
