"""What a hardening gave, and the models between the start and the end of its fine-tuning."""

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.data.prepared import batches
from iqa_armor.files import staging
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.card import without_times, write_card
from iqa_armor.pipeline.fitting import Weights, bring_back
from iqa_armor.progress import Progress
from iqa_armor.pruning.prune import Pruned
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.edits import InstalledBlock
from iqa_armor.training.history import FitHistory, ScoreMoments, worst_case_srocc
from iqa_armor.training.images import TrainingImages, predict

WORSE = 0.01  # of SROCC; less is not worth a warning


@dataclass(frozen=True, repr=False)
class Hardened:
    """A hardened model, in eval mode on the CPU and named NAME-hardened, and what was done to it."""

    model: QualityModel
    recipe: Recipe
    blocks: tuple[InstalledBlock, ...]
    pruned: Pruned | None
    fit: FitHistory
    srocc: dict[str, float]  # on the held-out tenth of the training images after each step, in [-1, 1]
    provenance: dict[str, Any] = field(default_factory=dict)  # as stored in the file
    # Of a frontier, the models that were not chosen, by the share of the fine-tuned end in [0, 1].
    others: dict[float, QualityModel] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Write the model as one self-contained safetensors file, whole or not at all."""
        save_artifact(self.model, path, recipe=self.recipe.model_dump(), provenance=without_times(self.provenance))

    def save_all(self, path: Path, **facts: Any) -> None:
        """Write the model, its card with facts on the run, and beside it, by share, what a frontier did not choose."""
        with staging(path.parent) as folder:
            self.save(folder / path.name)
            write_card(folder / path.name, **facts)
            for share, other in self.others.items():
                replace(self, model=other).save(folder / f"{path.stem}-{share:.2f}.safetensors")

    def __repr__(self) -> str:
        steps = "".join(f"\n  {step:16} held-out SROCC {value:.3f}" for step, value in self.srocc.items())
        return f"Hardened {self.model!r}{steps}"

    @property
    def warnings(self) -> list[str]:
        """What speaks against using the result."""
        before, after = self.srocc["original"], self.srocc["result"]
        if not self.fit.epochs or after >= before - WORSE:
            return []
        ways = ["more --epochs", "another --learning-rate", *["a smaller --prune"] * (self.recipe.prune > 0)]
        told = f"the result ranks images worse than the original: SROCC {after:.3f} against {before:.3f}"
        return [f"{told} on held-out training images; {', '.join(ways[:-1])} or {ways[-1]} may help"]

    def as_plain(self) -> dict[str, Any]:
        scale = self.model.scale
        score_range = None if scale is None else [scale.low, scale.high]
        told = {"name": self.model.name, "recipe": self.recipe.model_dump(), "score_range": score_range}
        return {**told, "warnings": self.warnings, **self.provenance}


class FrontierPoint(NamedTuple):
    """A model between two ends: the share of the fine-tuned one, and held-out SROCC, plain and under attack."""

    share: float
    srocc: float
    worst_srocc: float
    weights: Weights


def interpolated(start: Weights, end: Weights, share: float) -> dict[str, Tensor]:
    """Return (1 − share) · start + share · end of floating-point tensors; both ends, and other tensors, to the bit.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, arXiv:2109.01903, Eq. 1.
    """
    if share in (0.0, 1.0):
        return {name: value.clone() for name, value in (end if share else start).items()}
    return {n: torch.lerp(start[n], v, share) if v.is_floating_point() else v.clone() for n, v in end.items()}


def move_part_way(model: QualityModel, start: Weights, *, share: float, images: TrainingImages) -> None:
    """Give a model the weights at a share of the way from those it started with to those it has.

    Batch norms that differ between the ends get the statistics of training images.
    """
    end = copy.deepcopy(model.state_dict())
    model.load_state_dict(interpolated(start, end, share))
    if 0 < share < 1:
        _restore_statistics(model, start, end, images)


def frontier(
    model: QualityModel, start: Weights, images: TrainingImages, *, count: int, sign: float, progress: Progress
) -> list[FrontierPoint]:
    """Return `count` points from the weights that a model started with to those it has, which it keeps.

    `sign` is −1 where small scores are good.
    """
    end, points, held = copy.deepcopy(model.state_dict()), [], images.held_out
    for number in range(count):
        share = number / (count - 1)
        model.load_state_dict(end)
        move_part_way(model, start, share=share, images=images)
        scores = sign * predict(model, held, progress=progress, task=f"measuring model {number + 1} of {count}")
        worst = worst_case_srocc(nn.Sequential(model), images, sign=sign, batch_size=8)
        points.append(FrontierPoint(share, float(srocc(scores, held.mos)), worst, copy.deepcopy(model.state_dict())))
    model.load_state_dict(end)
    return points


def choose_point(points: list[FrontierPoint], *, original: float, drop: float | None) -> FrontierPoint:
    """Return the most robust point whose SROCC is at most `drop` below the original's, if any is; else the cleanest."""
    if drop is None:
        return max(points, key=lambda point: point.srocc + point.worst_srocc)
    kept = [point for point in points if point.srocc >= original - drop]
    return max(kept, key=lambda point: point.worst_srocc) if kept else max(points, key=lambda point: point.srocc)


@dataclass
class Frontier:
    """The models of a frontier that were not chosen, and facts on all; their scores get the moments `then`."""

    images: TrainingImages
    recipe: Recipe
    original: float  # held-out SROCC of the original
    then: ScoreMoments
    progress: Progress
    facts: list[dict[str, Any]] = field(default_factory=list)
    others: dict[float, QualityModel] = field(default_factory=dict)

    def __call__(self, model: QualityModel, start: Weights) -> None:
        sign, count = math.copysign(1.0, self.then.spread), self.recipe.frontier
        points = frontier(model, start, self.images, count=count, sign=sign, progress=self.progress)
        chosen = choose_point(points, original=self.original, drop=self.recipe.max_srocc_drop)
        for point in points:
            reached = {"share": point.share, "srocc": point.srocc, "worst_srocc": point.worst_srocc}
            self.facts.append({**reached, "chosen": point is chosen})
            if point is not chosen:
                other = model.with_network(copy.deepcopy(model.network), scale=None)
                other.load_state_dict(dict(point.weights))
                bring_back(other, self.images, self.then, views=self.recipe.views, progress=self.progress)
                self.others[point.share] = other.eval()
        model.load_state_dict(dict(chosen.weights))


def _restore_statistics(model: nn.Module, start: Weights, end: Weights, images: TrainingImages) -> None:
    """Give batch norms the statistics of training images, where those of the two ends differ."""
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    moved = [m for n, m in norms.items() if not torch.equal(start[f"{n}.running_mean"], end[f"{n}.running_mean"])]
    if not moved:
        return
    momenta = [norm.momentum for norm in moved]
    model.eval()
    for norm in moved:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    device = next(model.parameters()).device
    with torch.no_grad():
        for batch, _, _ in batches(images.fitted, 32):
            if len(batch) > 1:
                model(batch.to(device))
    for norm, momentum in zip(moved, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
