"""What hardening and training share: the images that they look at, fitting in standardised scores, the score range."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.data.base import Dataset, evenly
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.errors import DataError
from iqa_armor.evaluation.scale import record_scale
from iqa_armor.machine import choose_device
from iqa_armor.metrics.correlation import chance_srocc, srocc
from iqa_armor.models.base import QualityModel, state_digest
from iqa_armor.progress import Progress, automatic
from iqa_armor.pruning import CRITERIA
from iqa_armor.recipe import Recipe, Training
from iqa_armor.surgery.edits import average_views, rescale_output
from iqa_armor.training.accelerator import trackers
from iqa_armor.training.checkpoint import Checkpoint, fingerprint_of
from iqa_armor.training.fit import fit
from iqa_armor.training.history import FitHistory, ScoreMoments
from iqa_armor.training.images import TrainingImages, predict

logger = logging.getLogger(__name__)
Weights = Mapping[str, Tensor]
STANDARD = ScoreMoments()
CALIBRATION_PIXELS = 2**25  # at once: a hundred images of 498 × 664, forty of 768 × 1024
SAMPLES = 200  # [RA] Section 3
SAMPLES_TO_READ = SAMPLES * 5 // 4  # a tenth, more or less, is held out
FEWEST, BATCH = 10, 8  # samples (ours)


@dataclass(frozen=True)
class RunOptions:
    """How this machine carries a job out; none of it changes what the result is."""

    device: torch.device = field(default_factory=choose_device)
    checkpoint: Path | str | None = None  # file kept after each epoch
    resume: bool = False  # from it
    progress: Progress = automatic
    log_to: str | None = None  # trackers of Accelerate that get what each epoch gave, as "tensorboard,wandb:DIR"

    def __post_init__(self) -> None:
        trackers(self.log_to)  # refuses what is none before any work

    def checkpoint_of(
        self, model: QualityModel, dataset: Dataset, images: TrainingImages, **facts: Any
    ) -> Checkpoint | None:
        if self.checkpoint is None:
            return None
        made_from = {"labels": dataset.fingerprint, "pixels": images.digest(), "weights": state_digest(model), **facts}
        fingerprint = fingerprint_of(preprocessing=asdict(model.preprocessing), **made_from)
        return Checkpoint(Path(self.checkpoint), fingerprint, resumes=self.resume)


def calibration_batch(images: TrainingImages, model: QualityModel, count: int) -> Tensor:
    """Return `count` normalised training images (N, 3, H, W), evenly spread; fewer where they are large."""
    most = max(2, CALIBRATION_PIXELS // images.fitted[0][0][0].numel())
    chosen = [images.fitted[place][0] for place in evenly(len(images.fitted), count)[:most]]
    return model.normalize(torch.stack(chosen).to(model.mean.device))


def fit_to_opinion(
    model: QualityModel,
    images: TrainingImages,
    settings: Training,
    *,
    now: ScoreMoments = STANDARD,
    then: ScoreMoments,
    options: RunOptions,
    checkpoint: Checkpoint | None,
    teacher: ScoreFn | None = None,
    is_pretrained: bool = True,
    between: Callable[[QualityModel, Weights], None] | None = None,
) -> tuple[FitHistory, Tensor]:
    """Fit a traced model in place on standardised scores; it is on the CPU afterwards.

    Its scores, which have the moments `now`, then have those of `then` on the images fitted to, which it records.
    `between` may give the fitted model, on the device, other weights, and is told those it started with. Returned are
    what each epoch gave and the scores (N,) of all training images.
    """
    network = model.network
    if not isinstance(network, fx.GraphModule):
        raise ValueError("only a traced network can be rescaled")
    rescale_output(network, gain=1 / now.spread, offset=-now.center / now.spread)
    start = copy.deepcopy(model.state_dict())
    history = fit(
        model,
        images,
        settings,
        labels=moments_of(images.mos, turned=then.spread < 0),
        teacher=teacher,
        is_pretrained=is_pretrained,
        device=options.device,
        checkpoint=checkpoint,
        log_to=options.log_to,
        progress=options.progress,
    )
    if between is not None:
        between(model, {name: value.to(options.device) for name, value in start.items()})
    return history, bring_back(model, images, then, views=settings.views, progress=options.progress)


def bring_back(
    model: QualityModel, images: TrainingImages, then: ScoreMoments, *, views: int, progress: Progress
) -> Tensor:
    """Average a traced model's scores over views, give them moments, on the CPU; return and record all, (N,)."""
    network: Any = model.network
    average_views(network, views)
    scores = score_all(model, images, progress, views=views)
    model.to("cpu")
    reached = moments_of(scores[: len(images.fitted)])
    gain = abs(then.spread) / max(reached.spread, 1e-12)
    offset = then.center - gain * reached.center
    rescale_output(network, gain=gain, offset=offset)
    scores = gain * scores + offset
    record_scale(model, scores, images.names, images.all_mos)
    return scores


def standardised(model: QualityModel, moments: ScoreMoments) -> ScoreFn:
    """Return a model's scores, of these moments, as scores of zero mean and unit spread."""
    original = model.with_network(model.network, scale=None).eval()
    return lambda images: (original(images) - moments.center) / moments.spread


def moments_of(scores: Tensor, *, turned: bool = False) -> ScoreMoments:
    """Return the moments of scores (N,), the spread negative where their direction shall be turned round."""
    return ScoreMoments(float(scores.mean()), math.copysign(float(scores.std()), -1 if turned else 1))


def score_all(model: QualityModel, images: TrainingImages, progress: Progress, *, views: int = 1) -> Tensor:
    """Return the scores (N,) of all training images, those fitted to first, by a model that looks at views of each."""
    # As many images at once as without views, since maps of more would leave a processor's caches.
    measured = partial(predict, model, batch_size=32 // views, progress=progress, task="measuring the score range")
    return torch.cat([measured(part) for part in (images.fitted, images.held_out)])


def takes_samples(recipe: Recipe) -> bool:
    return recipe.prune > 0 and CRITERIA.read(recipe.criterion).takes_samples


def check_samples(mos: Tensor, recipe: Recipe) -> None:
    """Raise a DataError for scores (N,) that say nothing on channels, where pruning looks at them."""
    if not takes_samples(recipe):
        return
    problem = ""
    if len(mos) < FEWEST:
        problem = f"takes at least {FEWEST} scored training images beside those held out, and there are {len(mos)}"
    elif bool((mos == mos[0]).all()):
        problem = f"compares scores, but all are {float(mos[0]):g}"
    if problem:
        raise DataError(f"--criterion {recipe.criterion} {problem}; name more data, or pass --criterion taylor")


def sampled(images: TrainingImages) -> PreparedImages:
    """Return up to 200 of the images that are fitted to, evenly spread."""
    return images.fitted.select(evenly(len(images.fitted), SAMPLES))


def is_informed(model: QualityModel, images: TrainingImages, progress: Progress) -> bool:
    """Return whether a model's scores agree with opinion on the `sampled` images by more than chance; else say so."""
    sample = sampled(images)
    scores = predict(model, sample, progress=progress, task="comparing scores with opinion")
    found, chance = float(srocc(scores if model.higher_is_better else -scores, sample.mos)), chance_srocc(len(sample))
    if found > chance:
        return True
    told = f"SROCC {found:.2f} on {len(sample)} training images, chance gives {chance:.2f}"
    problem = f"the model's scores agree with opinion no more than by chance ({told})"
    logger.warning("%s; the result answers in the unit of the opinion scores", problem)
    return False


def labelled_batches(images: TrainingImages, model: QualityModel) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised `sampled` images (N, 3, H, W) with scores (N,) that are higher for better quality; N ≤ 8."""
    for batch, scores, _ in batches(sampled(images), BATCH):
        yield model.normalize(batch.to(model.mean.device)), scores
