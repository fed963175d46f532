"""Train the FCN filter to turn attacked images back into clean ones."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack
from iqa_armor.data.prepared import PreparedImages
from iqa_armor.defenses.purifiers.fcn import FCN, new_fcn
from iqa_armor.errors import DataError
from iqa_armor.metrics.fidelity import SSIM_WINDOW, psnr, ssim
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent
from iqa_armor.training.descent import Epochs, descend, epoch_seed, mirrored, run_epoch, warm_cosine
from iqa_armor.training.filter_settings import FilterSettings
from iqa_armor.training.images import TrainingImages
from iqa_armor.training.pairs import Pairs, make_pairs


@dataclass(frozen=True)
class FilterEpoch:
    """What one epoch gave; epoch 0 is the filter that changes nothing."""

    number: int
    loss: float  # mean over training pairs, NaN for epoch 0
    held_out: float  # loss on the held-out pairs
    psnr: float  # mean over held-out images, between purified attacked and clean ones, in dB
    seconds: float  # wall time, with attacks where they are run anew

    def __str__(self) -> str:
        return f"epoch {self.number}: held-out loss {self.held_out:.6f}, PSNR {self.psnr:.2f} dB"


@dataclass(frozen=True)
class FittedFilter:
    """A filter in eval mode on the attacked model's device, as of the epoch with the least loss on held-out pairs."""

    network: FCN
    epochs: tuple[FilterEpoch, ...]
    best: int
    held_out: Pairs


def fit_filter(
    model: QualityModel,
    images: TrainingImages,
    attacks: list[Attack],
    *,
    settings: FilterSettings,
    progress: Progress = silent,
) -> FittedFilter:
    """Return a filter trained on attacks of a model, which is left as it was.

    Pairs are made once, as `make_pairs` says, and kept in memory, or anew for every epoch where the settings say so;
    held-out pairs stay. Progress is told of images attacked, of steps, and of epochs that end.

    Raises:
        DataError: If the images are smaller than 11×11.
        ArmorError: If the loss is not finite, or an attack fails.

    Source: [AP] Gushchin et al., arXiv:2404.06957, for the filter and for training on pairs of attacked and clean
    images. The loss, mean squared error + 0.001 · (1 − SSIM), Adam and its step sizes, mirrored pairs, and the choice
    of the epoch are (ours).
    """
    if min(images.fitted[0][0].shape[-2:]) < SSIM_WINDOW:
        raise DataError("training a purifier needs images of at least 11x11 pixels; give a larger --input-size")
    training = _FilterTraining(model, images, attacks, settings=settings, progress=progress)
    training.note(0, math.nan, time.perf_counter())
    for number in range(1, settings.epochs + 1):
        training.run_epoch(number)
    return training.finish()


class _FilterTraining:
    """One training under way."""

    def __init__(
        self,
        model: QualityModel,
        images: TrainingImages,
        attacks: list[Attack],
        settings: FilterSettings,
        progress: Progress,
    ) -> None:
        self.model, self.attacks, self.settings, self.progress = model, attacks, settings, progress
        self.device = model.mean.device
        self.held_out = self._pairs(images.held_out, 0)
        self.pairs = self._pairs(images.fitted, 1)
        self.network = new_fcn(settings.seed).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self.steps = math.ceil(len(self.pairs) / settings.batch_size)
        self.schedule = warm_cosine(self.optimizer, settings.epochs * self.steps)
        self.epochs: Epochs[FilterEpoch] = Epochs(lambda epoch: -epoch.held_out)

    def run_epoch(self, number: int) -> None:
        started = time.perf_counter()
        if self.settings.fresh and number > 1:
            self.pairs = self._pairs(self.pairs.clean, number)
        generator = Generator().manual_seed(epoch_seed(self.settings.seed, number))
        order = torch.randperm(len(self.pairs), generator=generator).tolist()
        self.network.train()
        total, before = self.settings.epochs * self.steps, (number - 1) * self.steps
        loss = run_epoch(
            self.pairs.batches(order, self.settings.batch_size, self.device),
            lambda batch: self._step(*mirrored(*batch, generator=generator)),
            number=number,
            report=lambda done: self.progress("training the filter", before + done, total),
        )
        self.note(number, loss, started)

    def note(self, number: int, loss: float, started: float) -> None:
        """Measure the filter on the held-out pairs."""
        epoch = FilterEpoch(number, loss, *self._measured(), time.perf_counter() - started)
        self.epochs.add(epoch, self.network)
        self.progress("epochs", number, self.settings.epochs, str(epoch))

    def finish(self) -> FittedFilter:
        self.network.load_state_dict(self.epochs.weights)
        network = self.network.eval().requires_grad_(False)
        return FittedFilter(network, tuple(self.epochs.done), self.epochs.best, self.held_out)

    def _pairs(self, images: PreparedImages, number: int) -> Pairs:
        size, seed = self.settings.batch_size, epoch_seed(self.settings.seed, number)
        return make_pairs(self.model, images, self.attacks, batch_size=size, seed=seed, progress=self.progress)

    def _step(self, clean: Tensor, attacked: Tensor) -> Tensor:
        return descend(_losses(clean, self.network(attacked)).mean(), self.optimizer, self.schedule)

    @torch.no_grad()
    def _measured(self) -> tuple[float, float]:
        self.network.eval()
        losses, decibels = [], []
        for clean, attacked in self.held_out.batches(range(len(self.held_out)), self.settings.batch_size, self.device):
            purified = self.network(attacked)
            losses.append(_losses(clean, purified))
            decibels.append(psnr(clean, purified))
        return float(torch.cat(losses).mean()), float(torch.cat(decibels).mean())


def _losses(clean: Tensor, purified: Tensor) -> Tensor:
    return (purified - clean).square().flatten(1).mean(1) + 0.001 * (1 - ssim(clean, purified))
