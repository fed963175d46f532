"""Harden a model: trace, cut, splice, prune, install, fine-tune, measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from iqa_armor.artifact.storage import check_storable, save_artifact
from iqa_armor.data.base import Dataset
from iqa_armor.defenses import replace_activations
from iqa_armor.errors import SurgeryError
from iqa_armor.evaluation import on_device, scale_of
from iqa_armor.metrics import srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.models.digest import state_digest
from iqa_armor.pipeline.devices import choose_device
from iqa_armor.pipeline.fitting import (
    Options,
    Unit,
    calibration_batch,
    fit_to_opinion,
    load_material,
    predict_all,
    score_all,
)
from iqa_armor.pipeline.installing import Block, install
from iqa_armor.pipeline.provenance import provenance_of
from iqa_armor.pipeline.samples import SAMPLES_TO_READ, check_samples, labelled_batches, takes_samples
from iqa_armor.pruning import Pruned, prune
from iqa_armor.recipe import Recipe
from iqa_armor.surgery import choose, size_of, splice, trace
from iqa_armor.training import Fit
from iqa_armor.training.checkpoint import fingerprint_of

# Below this agreement with opinion on held-out images a model's scores say nothing worth keeping their unit for.
INFORMED_SROCC = 0.1


@dataclass(frozen=True)
class Hardened:
    """A hardened model and what was done to it.

    Args:
        model: The result, in eval mode on the CPU.
        recipe: Settings it was made by.
        blocks: Where the blocks stand.
        pruned: What pruning removed, or None.
        fit: The fine-tuning.
        srocc: On the held-out tenth of the training images after each step, in [-1, 1].
        provenance: Source, data, versions and the above, as stored in the file.
    """

    model: QualityModel
    recipe: Recipe
    blocks: tuple[Block, ...]
    pruned: Pruned | None
    fit: Fit
    srocc: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the model as one self-contained safetensors file, atomically."""
        save_artifact(self.model, path, recipe=self.recipe.model_dump(), provenance=self.provenance)


def harden(model: QualityModel, dataset: Dataset, recipe: Recipe, *, options: Options | None = None) -> Hardened:
    """Return a hardened copy of a model; the model itself is left untouched.

    Args:
        model: Pretrained model.
        dataset: Scored images; only its training split is used.
        recipe: What to do.
        options: How this machine does it.

    Raises:
        DataError: If images are missing or unreadable, or too few for the criterion, before anything else starts.
        SurgeryError: If the model cannot be traced, cut or pruned as asked.
        ModelLoadError: If the result could not be stored in a file; nothing has been trained by then.

    Source: [RA] Section 3: locate, splice, prune, fine-tune. Ours: the fine-tuning is on standardised scores, and
    the result is brought back to the mean and spread of the original's scores.
    """
    options = options or Options()
    with on_device(model, choose_device(options.device)):
        return _Job(model, dataset, recipe, options).run()


def plan(model: QualityModel, dataset: Dataset, recipe: Recipe, *, options: Options | None = None) -> Hardened:
    """Return the model after surgery, pruning and block installation but before fine-tuning.

    Only as many training images are read as calibration and pruning take, so that a dry run is quick.
    """
    training = dataset.training().limit(max(2 * recipe.calibration, SAMPLES_TO_READ * takes_samples(recipe)))
    small = Dataset(dataset.spec, {"training": training}, is_synthetic=dataset.is_synthetic)
    return harden(model, small, recipe.model_copy(update={"epochs": 0}), options=options)


class _Job:
    """One hardening under way."""

    def __init__(self, model: QualityModel, dataset: Dataset, recipe: Recipe, options: Options) -> None:
        self.original = model.eval()
        self.dataset = dataset
        self.recipe = recipe
        self.options = options
        self.lower_is_better = not model.higher_is_better
        self.material = load_material(dataset.training(), model, options.progress)
        check_samples(self.material.mos, recipe)
        self.calibration = calibration_batch(self.material, model, recipe.calibration)
        self.srocc: dict[str, float] = {}
        self.smooth: list[str] = []

    def run(self) -> Hardened:
        traced = trace(self.original.network, self.calibration[:1])
        cuts = [] if self.recipe.position == "none" else choose(traced, self.recipe.position)
        halved = [size[1] for cut in cuts if len(size := size_of(cut) or ()) == 4]
        names = {splice(traced, cut, nn.Identity(), taps=self.recipe.taps): cut.name for cut in cuts}
        base_scores = self._note("original", self.original.network)
        if self.recipe.activation != "keep":
            self.smooth = replace_activations(traced, self.recipe.activation)
            self._note("activations replaced", traced)
        traced, pruned = self._prune(traced, halved=halved)
        blocks = install(traced, names, self.recipe, calibration=self.calibration)
        if blocks:
            self._note("block installed", traced)
        model = self.original.with_network(traced, scale=None)
        check_storable(model)
        fitted, scores = self._fit(model, base_scores)
        held_out = self.material.held_out
        self.srocc["result"] = self._agreement(scores[-len(held_out) :])
        model.scale = scale_of(model, scores, self.material.names)
        provenance = self._provenance(blocks, pruned, fitted)
        return Hardened(model.to("cpu").eval(), self.recipe, blocks, pruned, fitted, self.srocc, provenance)

    def _note(self, step: str, network: nn.Module) -> Tensor:
        """Return the scores of the held-out images and note their agreement with opinion."""
        model = self.original.with_network(network, scale=None)
        scores = predict_all(model, self.material.held_out, f"scoring: {step}", self.options.progress)
        self.srocc[step] = self._agreement(scores)
        return scores

    def _agreement(self, scores: Tensor) -> float:
        """Return SROCC in [-1, 1] with opinion on the held-out images, higher being better agreement."""
        return float(srocc(-scores if self.lower_is_better else scores, self.material.held_out.mos))

    def _prune(self, traced: fx.GraphModule, *, halved: list[int]) -> tuple[fx.GraphModule, Pruned | None]:
        if self.recipe.prune == 0:
            return traced, None
        self.options.progress("pruning", 0, 1)
        pruned = prune(
            traced,
            self.calibration,
            ratio=self.recipe.prune,
            criterion=self.recipe.criterion,
            across_layers=self.recipe.prune_global,
            halved=halved,
            samples=labelled_batches(self.material, self.original) if takes_samples(self.recipe) else None,
            seed=self.recipe.seed,
        )
        if pruned.share == 0:
            raise SurgeryError(
                "torch-pruning finds no channel of this network that can go, as in most transformers; --prune 0 skips "
                "pruning"
            )
        self.options.progress("pruning", 1, 1, f"{pruned.share:.1%} of the channels removed")
        self._note("pruned", pruned.network)
        return pruned.network, pruned

    def _fit(self, model: QualityModel, base_scores: Tensor) -> tuple[Fit, Tensor]:
        if self.recipe.epochs == 0:
            return Fit((), 0), score_all(model, self.material, self.options.progress)
        now = Unit(float(base_scores.mean()), float(base_scores.std()))
        then = now
        if not (self.srocc["original"] > INFORMED_SROCC and now.spread > 1e-6):
            # Scores that say nothing are not stretched to unit spread: that would only amplify their noise.
            mos, sign = self.material.mos, -1.0 if self.lower_is_better else 1.0
            now, then = Unit(0.0, 1.0), Unit(float(mos.mean()), sign * float(mos.std()))
        elif self.lower_is_better:
            then = Unit(now.center, -now.spread)
        return fit_to_opinion(
            model,
            self.material,
            self.recipe,
            now=now,
            then=then,
            options=self.options,
            fingerprint=self._fingerprint(),
        )

    def _fingerprint(self) -> str:
        return fingerprint_of(
            {
                "recipe": self.recipe.model_dump(),
                "data": self.dataset.fingerprint,
                "preprocessing": asdict(self.original.preprocessing),
                "weights": state_digest(self.original),
            }
        )

    def _provenance(self, blocks: tuple[Block, ...], pruned: Pruned | None, fitted: Fit) -> dict[str, Any]:
        facts = {
            "blocks": [asdict(block) for block in blocks],
            "pruned": pruned.facts() if pruned else None,
            "smooth_activations": self.smooth,
            "held_out_srocc": self.srocc,
            "epochs": [asdict(epoch) for epoch in fitted.epochs],
            "best_epoch": fitted.best,
        }
        return provenance_of(self.original, self.dataset, seed=self.recipe.seed, facts=facts)
