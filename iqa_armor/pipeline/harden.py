"""Harden a model: trace, cut, splice, prune, install, fine-tune, measure."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, cast

from torch import Tensor, fx, nn

from iqa_armor.artifact.storage import check_storable, rebuilt
from iqa_armor.attacks.base import ScoreFn
from iqa_armor.data.base import Dataset
from iqa_armor.defenses.activations import replace_activations
from iqa_armor.errors import ModelLoadError, SurgeryError, UsageError
from iqa_armor.evaluation.run import on_device
from iqa_armor.evaluation.scale import record_scale
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.trace import lay_out
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.models.outputs import UNFOLLOWED
from iqa_armor.pipeline import fitting
from iqa_armor.pipeline.card import provenance_of
from iqa_armor.pipeline.fitting import RunOptions, moments_of, takes_samples
from iqa_armor.pipeline.forecast import slowdown
from iqa_armor.pipeline.hardened import Frontier, Hardened, move_part_way
from iqa_armor.pipeline.inspect import SurgeryProof, found_steady, prove_blocks, prove_same, traced_for
from iqa_armor.pruning import CRITERIA
from iqa_armor.pruning.prune import PROOF_TOLERANCE, Pruned, prune
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.edits import average_views, install, splice
from iqa_armor.surgery.stages import choose
from iqa_armor.training.history import FitHistory, ScoreMoments
from iqa_armor.training.images import load_training_images, predict

SLOWER = 1.2  # than the original's: the call of a hardened model for which `auto` takes a cheaper block


def harden(
    model: QualityModel,
    dataset: Dataset,
    recipe: Recipe,
    *,
    options: RunOptions | None = None,
    unlabelled: Dataset | None = None,
) -> Hardened:
    """Return a hardened copy of a model; the model itself is left untouched.

    Only the training split of the dataset is used, and of `unlabelled` any images, whose scores `--defense teacher`
    takes from the original.

    Raises:
        DataError: If images are missing or unreadable, or too few for the criterion, before anything else starts.
        SurgeryError: If the model cannot be traced, cut or pruned as asked.
        ModelLoadError: If the result could not be stored in a file; nothing has been trained by then.

    Source: [RA] Section 3: locate, splice, prune, fine-tune. Ours: the fine-tuning is on standardised scores, and
    the result is brought back to the mean and spread of the original's scores.
    """
    options = options or RunOptions()
    if recipe.backend == "auto":
        cayley = recipe.model_copy(update={"backend": "cayley"})
        trial = harden(model, *untrained(dataset, cayley), options=options)
        image = model.prepare(dataset.training()[0])
        with on_device(model, options.device):
            before, after = slowdown(model, trial.model, image, options.device)
        recipe = recipe.model_copy(update={"backend": "aoc" if after > SLOWER * before else "cayley"})
    with on_device(model, options.device):
        return _Hardening(model, dataset, recipe, options, unlabelled).run()


def untrained(dataset: Dataset, recipe: Recipe) -> tuple[Dataset, Recipe]:
    """Return what gives `harden` no more to do than surgery, on as few training images as that takes, to be quick."""
    training = dataset.training().limit(max(2 * recipe.calibration, fitting.SAMPLES_TO_READ * takes_samples(recipe)))
    small = Dataset(dataset.spec, {"training": training}, is_synthetic=dataset.is_synthetic)
    return small, recipe.model_copy(update={"epochs": 0, "share": 1.0, "frontier": 0})


class _Hardening:
    def __init__(
        self, model: QualityModel, dataset: Dataset, recipe: Recipe, options: RunOptions, unlabelled: Dataset | None
    ) -> None:
        self.original = model.eval()
        if types := {str(each.dtype) for each in model.parameters() if each.is_floating_point()} - {"torch.float32"}:
            raise ModelLoadError(f"{model.name} has weights in {', '.join(types)}; cast it with network.float() first")
        self.dataset, self.recipe, self.options = dataset, recipe, options
        self.unlabelled, more = unlabelled, None
        if unlabelled is not None:
            if "teacher" not in recipe.defense.split("+"):
                raise UsageError(f"images without scores serve --defense teacher only, not {recipe.defense}")
            more = unlabelled.splits["training"] if "training" in unlabelled.splits else unlabelled.reported()[1]
        self.images = load_training_images(dataset.training(), model, options.progress, unlabelled=more)
        fitting.check_samples(self.images.mos, recipe)
        self.calibration = fitting.calibration_batch(self.images, model, recipe.calibration)
        self.srocc: dict[str, float] = {}
        self.frontier: Frontier | None = None

    def run(self) -> Hardened:
        recipe, original, images = self.recipe, self.original.network, self.calibration
        traced, steady = traced_for(self.original, images), found_steady(original, images)
        cuts = [] if recipe.position == "none" else choose(traced, recipe.position)
        halved = [size[1] for cut in cuts if len(size := size_of(cut) or ()) == 4]
        names = {splice(traced, cut, nn.Identity(), taps=recipe.taps): cut.name for cut in cuts}
        base = moments_of(self._note("original", original))
        proofs = [prove_same("spliced = original", original, traced, images, steady=steady, fault=UNFOLLOWED)]
        lay_out(traced)
        smooth = [] if recipe.activation == "keep" else replace_activations(traced, recipe.activation)
        if recipe.activation != "keep":
            self._note("activations replaced", traced)
        traced, pruned = self._prune(traced, halved=halved)
        if pruned is not None:
            proofs.append(SurgeryProof("pruned = original without the channels", pruned.proof, PROOF_TOLERANCE))
        blocks = install(traced, names, recipe, calibration=images)
        if blocks:
            proofs += prove_blocks(traced, recipe, images)
            self._note("block installed", traced)
        model = self.original.with_network(traced, scale=None)
        model.name = f"{self.original.name}-hardened"
        check_storable(model)
        history, scores = self._fit(model, base)
        self.srocc["result"] = self._agreement(scores[-len(self.images.held_out) :])
        stored = rebuilt(model.to("cpu").eval()).network
        proofs.append(prove_same("saved = loaded", model.network, stored, images.cpu(), steady=steady))
        facts: dict[str, Any] = {"blocks": list(map(asdict, blocks)), "pruned": pruned.facts() if pruned else None}
        facts |= {"checks": list(map(asdict, proofs)), "smooth_activations": smooth}
        facts["images_used"] = {"training": len(self.images.fitted), "held_out": len(self.images.held_out)}
        facts |= {"unlabelled": self.unlabelled and self.unlabelled.spec, "held_out_srocc": self.srocc}
        facts |= {"frontier": self.frontier.facts if self.frontier else [], **history.facts()}
        record = provenance_of(self.original, self.dataset, seed=recipe.seed, **facts)
        others = self.frontier.others if self.frontier else {}
        return Hardened(model, recipe, blocks, pruned, history, self.srocc, record, others)

    def _note(self, step: str, network: nn.Module) -> Tensor:
        model = self.original.with_network(network, scale=None)
        scores = predict(model, self.images.held_out, progress=self.options.progress, task=f"scoring: {step}")
        self.srocc[step] = self._agreement(scores)
        return scores

    def _agreement(self, scores: Tensor) -> float:
        return float(srocc(scores if self.original.higher_is_better else -scores, self.images.held_out.mos))

    def _prune(self, traced: fx.GraphModule, *, halved: list[int]) -> tuple[fx.GraphModule, Pruned | None]:
        if self.recipe.prune == 0:
            return traced, None
        self.options.progress("pruning", 0, 1)
        criterion = CRITERIA.read(self.recipe.criterion)
        pruned = prune(
            traced,
            self.calibration,
            ratio=self.recipe.prune,
            criterion=criterion,
            across_layers=self.recipe.prune_global or criterion.across_layers,
            halved=halved,
            samples=fitting.labelled_batches(self.images, self.original) if takes_samples(self.recipe) else None,
            seed=self.recipe.seed,
        )
        if not pruned.kept:
            raise SurgeryError(f"no channel of this network can go: {pruned.why_less}. --prune 0 skips pruning")
        self.options.progress("pruning", 1, 1, f"{pruned.share:.1%} of the convolutions' channels removed")
        self._note("pruned", pruned.network)
        return pruned.network, pruned

    def _fit(self, model: QualityModel, now: ScoreMoments) -> tuple[FitHistory, Tensor]:
        if self.recipe.epochs == 0:
            average_views(cast(fx.GraphModule, model.network), self.recipe.views)
            scores = fitting.score_all(model, self.images, self.options.progress, views=self.recipe.views)
            record_scale(model, scores, self.images.names, self.images.all_mos)
            return FitHistory(), scores
        turned = not self.original.higher_is_better
        then = ScoreMoments(now.center, -now.spread if turned else now.spread)
        teacher: ScoreFn | None = fitting.standardised(self.original, now)
        if now.spread <= 1e-6 or not fitting.is_informed(self.original, self.images, self.options.progress):
            # Scores that say nothing are not stretched to unit spread: that would only amplify their noise.
            now, then, teacher = ScoreMoments(), moments_of(self.images.mos, turned=turned), None
        images, options, recipe = self.images, self.options, self.recipe
        between: Callable[[QualityModel, fitting.Weights], None] | None = None
        if recipe.frontier:
            between = self.frontier = Frontier(images, recipe, self.srocc["original"], then, options.progress)
        elif recipe.share < 1:
            between = partial(move_part_way, share=recipe.share, images=images)
        facts = {} if self.unlabelled is None else {"unlabelled": self.unlabelled.fingerprint}
        kept = options.checkpoint_of(self.original, self.dataset, images, recipe=recipe.model_dump(), **facts)
        how = partial(fitting.fit_to_opinion, options=options, checkpoint=kept, teacher=teacher, between=between)
        return how(model, images, recipe, now=now, then=then)
