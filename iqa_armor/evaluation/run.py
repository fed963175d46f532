"""One model on all datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.prepared import PreparedImages, batches, to_float
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import ModelLoadError
from iqa_armor.evaluation.attack_gains import AttackGains
from iqa_armor.evaluation.cost import count_flops, count_parameters
from iqa_armor.evaluation.journal import Journal, model_digest
from iqa_armor.evaluation.plans import AttackPlans
from iqa_armor.evaluation.randomness import reseed
from iqa_armor.evaluation.scale import measure_scale
from iqa_armor.evaluation.scoring import SetScorer
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.shards import Shard
from iqa_armor.evaluation.strength import check_strength
from iqa_armor.evaluation.threats import followed_score, undefended
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.progress import Progress, silent
from iqa_armor.results.figures import ModelEntry, Scale, StrengthCheck
from iqa_armor.results.table import Table

STORED = "stored with the model"


@dataclass(frozen=True)
class Run:
    """An evaluation under way: what it is about, what has been learned for it, and where results are kept."""

    datasets: Sequence[Dataset]
    settings: EvaluationSettings
    device: torch.device
    journal: Journal = field(default_factory=Journal)
    shard: Shard = field(default_factory=Shard)
    progress: Progress = silent
    _scales: dict[QualityModel, tuple[ScoreScale, str]] = field(default_factory=dict)

    @cached_property
    def plans(self) -> AttackPlans:
        """The attacks, each learned once."""
        return AttackPlans(self.datasets, self.settings, self.device, self.progress)

    def images(self, dataset: Dataset) -> ImageSet:
        """Return the images of the reported split that the limit leaves."""
        return dataset.reported()[1].limit(self.settings.limit)

    def rows(self, model: QualityModel) -> dict[str, Table]:
        """Return the rows of a model on the device by dataset; it is left as it was, errors as in `SetScorer.rows`."""
        digest, tables = model_digest(model), {}
        for position, dataset in enumerate(self.datasets):
            scorer = SetScorer(
                model=model,
                images=self.images(dataset),
                prepare=prepare_for(model, dataset),
                plan=lambda: self.plans.of(model),
                settings=self.settings,
                device=self.device,
                part=f"{digest}-{position}",
                set_number=position,
            )
            told = self._teller(model, dataset.spec, len(scorer.images))
            rows = scorer.rows(journal=self.journal, shard=self.shard, on_image=told)
            tables[dataset.spec] = rows.changed(model=model.name, dataset=dataset.spec)
        return tables

    def described(self, model: QualityModel, *, seconds: float, surrogate: QualityModel | None) -> ModelEntry:
        """Return the entry of a model on the device without its figures: cost, scale and checks of strength.

        The checks borrow attacks from the surrogate, another model.
        """
        scale, source = self.scale(model)
        dataset = self.datasets[0]
        defense: dict[str, str] = {}
        if isinstance(model, Defended):
            defense = {"defense": model.description, "defends": undefended(model).name, "threat": model.threat}
        stated = Scale(low=scale.low, high=scale.high, higher_is_better=scale.higher_is_better, source=source)
        return ModelEntry.model_validate(
            {
                "name": model.name,
                "arch": model.arch,
                "parameters": count_parameters(model),
                "flops": count_flops(model, prepare_for(model, dataset)(self.images(dataset)[0])),
                "timing": {"seconds_per_image": seconds},
                "scale": stated,
                "checks": self._checks(model, surrogate) if self.settings.checks else (),
                **defense,
            }
        )

    def scale(self, model: QualityModel) -> tuple[ScoreScale, str]:
        """Return the model's score range and where it comes from: the model, else a training split.

        That of a defended model is that of the model behind its defenses, so that gains can be compared.

        Raises:
            ModelLoadError: If there is neither.
        """
        model = undefended(model)
        if model.scale is not None:
            return model.scale, STORED
        if model not in self._scales:
            self._scales[model] = self._measured_scale(model)
        return self._scales[model]

    def _measured_scale(self, model: QualityModel) -> tuple[ScoreScale, str]:
        dataset = next((each for each in self.datasets if len(each.splits.get("training", ()))), None)
        if dataset is None:
            raise ModelLoadError(
                f"the range of {model.name}'s scores is not known and no dataset has training images to measure it "
                "on; give it with --score-range LOW,HIGH or name a dataset with a training split"
            )
        images, prepare = dataset.splits["training"].limit(self.settings.limit), prepare_for(model, dataset)
        told = self._teller(model, f"{dataset.spec} (score range)", len(images))
        scale = measure_scale(model, images, prepare=prepare, batch_size=self.settings.batch_size, on_batch=told)
        return scale, f"measured on {len(images)} training images of {dataset.spec}"

    def _checks(self, model: QualityModel, surrogate: QualityModel | None) -> tuple[StrengthCheck, ...]:
        if isinstance(model, Defended) and model.threat == "bare":
            return ()
        if surrogate is not None and surrogate.preprocessing.size != model.preprocessing.size:
            surrogate = None  # it may not take this model's images
        settings, dataset = self.settings, self.datasets[0]
        chosen = PreparedImages(self.images(dataset).limit(settings.check_images), prepare_for(model, dataset))
        images, _, _ = next(batches(chosen, settings.check_images))
        gains = AttackGains(
            score=model,
            followed=followed_score(model, settings.eot),
            images=images.to(self.device),
            width=self.scale(model)[0].width,
            settings=settings,
        )
        task = f"evaluating {model.name} on {len(images)} images (checks of strength)"
        reseed(model, settings.seed, "checks")
        with frozen(model), frozen(surrogate or model), on_device(surrogate or model, self.device):
            return check_strength(gains, surrogate=surrogate, on_check=partial(self.progress, task))

    def _teller(self, model: QualityModel, what: str, total: int) -> Callable[[int], None]:
        return lambda done: self.progress(f"evaluating {model.name} on {what}", done, total)


def prepare_for(model: QualityModel, dataset: Dataset) -> Callable[[Tensor], Tensor]:
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
