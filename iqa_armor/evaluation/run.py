"""What an evaluation is about and keeps, what its attackers know, and the budgets that they are held to."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, Batches, Borrowing, Fitted, ScoreFn, frozen
from iqa_armor.attacks.budgets import at_budgets, budget_key
from iqa_armor.attacks.scores import expectation
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.prepared import Prepare, batches, load_prepared, to_float
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import ArmorError, ModelLoadError
from iqa_armor.evaluation.journal import Journal
from iqa_armor.evaluation.scale import measure_scale
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.metrics.fidelity import l2, linf
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent
from iqa_armor.results.figures import Scale


@dataclass(frozen=True)
class Run:
    """What an evaluation is about, where its results are kept, and what was measured or learned for it."""

    datasets: Sequence[Dataset]
    settings: EvaluationSettings
    device: torch.device
    journal: Journal = field(default_factory=Journal)
    progress: Progress = silent
    lender: QualityModel | None = None  # the baseline, attacks on which are tried on the others too
    _scales: dict[QualityModel, Scale] = field(default_factory=dict)
    _learned: dict[tuple[QualityModel, str], tuple[Attack, ...]] = field(default_factory=dict)

    def images(self, dataset: Dataset) -> ImageSet:
        """Return the images of the reported split that the limit leaves."""
        return dataset.reported()[1].limit(self.settings.limit)

    def teller(self, model: QualityModel, what: str, total: int) -> Callable[[int], None]:
        """Return what tells how much of the work on a model is done."""
        return lambda done: self.progress(f"evaluating {model.name} on {what}", done, total)

    def scale(self, model: QualityModel) -> Scale:
        """Return the model's score range: its own, else as measured on a training split; a ModelLoadError without."""
        model = undefended(model)  # so that gains can be compared
        if model.scale is not None:
            return Scale(**asdict(model.scale))
        if model in self._scales:
            return self._scales[model]
        if (dataset := self._trainable()) is None:
            unknown = f"the range of {model.name}'s scores is not known"
            advice = "give it with --score-range LOW,HIGH or name a dataset with a training split"
            raise ModelLoadError(f"{unknown} and no dataset has training images to measure it on; {advice}")
        images, prepare = dataset.splits["training"].limit(self.settings.limit), prepare_for(model, dataset)
        told = self.teller(model, f"{dataset.spec} (score range)", len(images))
        scale = measure_scale(model, images, prepare=prepare, batch_size=self.settings.batch_size, on_batch=told)
        source = f"measured on {len(images)} training images of {dataset.spec}"
        return self._scales.setdefault(model, Scale(**asdict(scale), source=source))

    def lender_for(self, model: QualityModel) -> QualityModel | None:
        """Return the bare baseline, frozen and on the device, if its images are as large, to borrow from."""
        lender = model if self.lender is None else undefended(self.lender)
        return None if lender is model or lender.preprocessing.size != model.preprocessing.size else lender

    def lent(self, model: QualityModel, attack: Attack) -> Attack:
        """Return an attack on a model with the baseline among its sources, where it borrows and there is one to."""
        if (lender := self.lender_for(model)) is None or not isinstance(attack, Borrowing):
            return attack
        return replace(attack, sources=(*attack.sources, lender))  # type: ignore[type-var]

    def attack(self, model: QualityModel, name: str) -> tuple[Attack, ...]:
        """Return one attack on a model, which is on the device, at every budget.

        Attacks that learn do so once per attacked model and budget: on training images of the first dataset that has
        any, else on the images that are reported, which favours the attacker.
        """
        attack = self.lent(model, self.settings.named_attacks()[name])
        budgets = at_budgets(attack, self.settings.epsilons)
        if not isinstance(attack, Fitted):
            return budgets
        place = attacked_model(model), name  # attacks unaware of defenses are those on the bare model
        if place in self._learned:
            return self._learned[place]
        seen, score, learned = self._fit_images(model), followed_score(model, self.settings.eot), list[Attack]()
        told = self.teller(model, f"training images (learning {name})", len(budgets))
        with frozen(model):
            for each in budgets:
                source = restart(model, self.settings.seed, "fit", name, budget_key(each))
                learned.append(each.fit(score, seen, source))  # type: ignore[attr-defined]
                told(len(learned))
        self._learned[place] = tuple(learned)
        return self._learned[place]

    def _fit_images(self, model: QualityModel) -> Batches:
        dataset = self._trainable() or self.datasets[0]
        images = dataset.splits.get("training") or dataset.reported()[1]
        prepared = load_prepared(images.limit(self.settings.fit_images), prepare_for(model, dataset))

        def passes() -> Iterator[Tensor]:
            return (pixels.to(self.device) for pixels, _, _ in batches(prepared, self.settings.batch_size))

        return passes

    def _trainable(self) -> Dataset | None:
        return next((each for each in self.datasets if len(each.splits.get("training", ()))), None)


def prepare_for(model: QualityModel, dataset: Dataset) -> Prepare:
    """Return what turns a uint8 image into the network's: nothing but scaling where sizes are kept."""
    return to_float if dataset.keeps_size else model.prepare


@contextmanager
def on_device(model: QualityModel, device: torch.device) -> Iterator[None]:
    """Move a model to a device while the block runs, and back afterwards."""
    home = model.mean.device
    try:
        model.to(device)
        yield
    finally:
        model.to(home)


def restart(model: QualityModel, seed: int, *purpose: object) -> Generator:
    """Let what a defense draws from now on follow from the purpose alone, and return randomness for an attack on it."""
    if isinstance(model, Defended):
        model.reseed(_seed_for(seed, "defense", *purpose))
    return Generator(device=model.mean.device).manual_seed(_seed_for(seed, *purpose))


def _seed_for(*words: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, words)).encode()).digest()[:7], "big")


def followed_score(model: QualityModel, samples: int = 8) -> ScoreFn:
    """Return the score that attacks on a model follow: without a defense that is the model.

    A defended one is attacked as its `threat` says: "bare" is the model behind all its defenses, and what fools it is
    shown to the defense unchanged; "adaptive" knows the defense, differentiates it (BPDA where it has no gradient) and
    averages `samples` draws of what is random (EOT).

    Source: Athalye et al., ICML 2018, arXiv:1802.00420, Section 4; the threats: [AP] Gushchin et al., arXiv:2404.06957.
    """
    model = attacked_model(model)
    if not isinstance(model, Defended):
        return model
    return expectation(model.attacked_scores, samples) if model.is_random and samples > 1 else model.attacked_scores


def attacked_model(model: QualityModel) -> QualityModel:
    """Return the model that an attacker knows: the bare one where attacks do not know the defense."""
    return undefended(model) if isinstance(model, Defended) and model.threat == "bare" else model


def undefended(model: QualityModel) -> QualityModel:
    while isinstance(model, Defended):
        model = model.inner
    return model


BUDGET_TOLERANCE = 1e-6  # rounding of float32 pixels
LENGTH_TOLERANCE = 1e-4  # relative, rounding of float32 sums


def check_budget(name: str, attack: Attack, *, clean: Tensor, attacked: Tensor) -> None:
    """Refuse images of another size, outside their attack's budget, unless it is a flow's, or outside [0, 1]."""
    if attacked.shape != clean.shape:
        sizes = f"from {tuple(clean.shape)} to {tuple(attacked.shape)}"
        raise ArmorError(f"attack {name} changed the size of images {sizes}")
    _check_distance(name, attack, clean, attacked)
    low, high = float(attacked.min()), float(attacked.max())
    if not (low >= -BUDGET_TOLERANCE and high <= 1 + BUDGET_TOLERANCE):
        raise ArmorError(f"attack {name} left the pixel range [0, 1]: [{low:.4g}, {high:.4g}]")


def _check_distance(name: str, attack: Attack, clean: Tensor, attacked: Tensor) -> None:
    if attack.norm in ("flow", "none"):
        return
    distance, tolerance = (linf, BUDGET_TOLERANCE) if attack.norm == "linf" else (l2, LENGTH_TOLERANCE * attack.epsilon)
    farthest = float(distance(clean, attacked).max()) / (clean[0].numel() ** 0.5 if attack.norm == "rmse" else 1)
    if farthest <= attack.epsilon + tolerance:
        return
    if attack.norm == "l2":
        raise ArmorError(f"attack {name} changed an image by {farthest:.4g} (L2), more than its {attack.epsilon:g}")
    what = "moved a pixel by" if attack.norm == "linf" else "changed an image by an RMSE of"
    what += f" {farthest * 255:.4g}/255, more than its budget of {attack.epsilon * 255:g}/255"
    raise ArmorError(f"attack {name} {what}")
