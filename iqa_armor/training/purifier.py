"""Train the FCN filter to turn attacked images back into clean ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack
from iqa_armor.data.prepared import PreparedImages
from iqa_armor.defenses.purifiers.fcn import FCN, new_fcn
from iqa_armor.errors import ArmorError, DataError
from iqa_armor.metrics.fidelity import SSIM_WINDOW, psnr, ssim
from iqa_armor.models.base import QualityModel
from iqa_armor.training.filter_settings import FilterSettings
from iqa_armor.training.pairs import OnPairs, Pairs, make_pairs
from iqa_armor.training.setup import WarmCosine, require_one_size

SSIM_WEIGHT = 0.001


@dataclass(frozen=True)
class FilterEpoch:
    """What one epoch gave.

    Args:
        number: From 1; 0 is the filter that changes nothing.
        loss: Mean training loss, NaN for epoch 0.
        held_out: Loss on the held-out pairs.
        psnr: Mean over held-out images of the PSNR between purified attacked and clean ones, in dB.
        seconds: Wall time, with attacks where they are run anew.
    """

    number: int
    loss: float
    held_out: float
    psnr: float
    seconds: float


@dataclass(frozen=True)
class FittedFilter:
    """The outcome of training.

    Args:
        network: The filter of the best epoch, in eval mode on the model's device.
        epochs: Every epoch, the filter that changes nothing first.
        best: Number of the best epoch: the smallest held-out loss of those trained.
        held_out: The pairs that chose it.
    """

    network: FCN
    epochs: tuple[FilterEpoch, ...]
    best: int
    held_out: Pairs


OnEpoch = Callable[[FilterEpoch], None]


def fit_filter(
    model: QualityModel,
    images: tuple[PreparedImages, PreparedImages],
    attacks: list[Attack],
    *,
    settings: FilterSettings,
    on_attack: OnPairs | None = None,
    on_step: OnPairs | None = None,
    on_epoch: OnEpoch | None = None,
) -> FittedFilter:
    """Return a filter trained on attacks of a model, which is left as it was.

    Pairs are made once and kept in memory, or anew for every epoch where the settings say so; held-out pairs stay.

    Args:
        model: What is attacked, without a purifier, on the device to compute on.
        images: Images trained on, and the held-out ones that choose the epoch; all of one size.
        attacks: Attacks that are ready to run; images take turns with them.
        settings: Epochs, step size and the rest.
        on_attack: Called with (images attacked, images in all) while pairs are made.
        on_step: Called with (steps done, steps in all).
        on_epoch: Called with every epoch, the untrained filter's first.

    Raises:
        DataError: If there are fewer than two images, they differ in size, or are smaller than 11×11.
        ArmorError: If the loss is not finite, or an attack fails.

    Source: [AP] Gushchin et al., arXiv:2404.06957, for the filter and for training on pairs of attacked and clean
    images. The loss, mean squared error + 0.001 · (1 − SSIM), Adam and its step sizes, mirrored pairs, and the choice
    of the epoch are (ours).
    """
    require_one_size(*images)
    if min(images[0][0][0].shape[-2:]) < SSIM_WINDOW:
        raise DataError("training a purifier needs images of at least 11x11 pixels; give a larger --input-size")
    run = _Run(model, images, attacks, settings=settings, on_attack=on_attack)
    run.note(0, math.nan, time.perf_counter(), on_epoch)
    for number in range(1, settings.epochs + 1):
        run.epoch(number, on_step, on_epoch)
    return run.finish()


class _Run:
    """One training under way."""

    def __init__(
        self,
        model: QualityModel,
        images: tuple[PreparedImages, PreparedImages],
        attacks: list[Attack],
        *,
        settings: FilterSettings,
        on_attack: OnPairs | None,
    ) -> None:
        self.model, self.attacks, self.settings, self.on_attack = model, attacks, settings, on_attack
        self.device = model.mean.device
        self.held_out = self._pairs(images[1], 0)
        self.pairs = self._pairs(images[0], 1)
        self.network = new_fcn(settings.seed).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self.steps = math.ceil(len(self.pairs) / settings.batch_size)
        schedule = WarmCosine(settings.epochs * self.steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.epochs: list[FilterEpoch] = []
        self.best: dict[str, Tensor] = {}

    def epoch(self, number: int, on_step: OnPairs | None, on_epoch: OnEpoch | None) -> None:
        started = time.perf_counter()
        if self.settings.fresh and number > 1:
            self.pairs = self._pairs(self.pairs.clean, number)
        generator = Generator().manual_seed(self._seed(number))
        order = torch.randperm(len(self.pairs), generator=generator).tolist()
        self.network.train()
        losses: list[Tensor] = []
        for clean, attacked in self.pairs.batches(order, self.settings.batch_size, self.device):
            mirrored = (torch.rand(len(clean), 1, 1, 1, generator=generator) < 0.5).to(self.device)
            losses.append(self._step(*(torch.where(mirrored, part.flip(-1), part) for part in (clean, attacked))))
            if on_step is not None:
                on_step((number - 1) * self.steps + len(losses), self.settings.epochs * self.steps)
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise ArmorError(f"the loss of epoch {number} is {loss}; lower --learning-rate")
        self.note(number, loss, started, on_epoch)

    def note(self, number: int, loss: float, started: float, on_epoch: OnEpoch | None) -> None:
        """Measure the filter on the held-out pairs and keep it where it is the best trained one."""
        held_out, decibels = self._measured()
        if number and held_out < min((epoch.held_out for epoch in self.epochs if epoch.number), default=math.inf):
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.epochs.append(FilterEpoch(number, loss, held_out, decibels, time.perf_counter() - started))
        if on_epoch is not None:
            on_epoch(self.epochs[-1])

    def finish(self) -> FittedFilter:
        trained = [epoch for epoch in self.epochs if epoch.number]
        best = min(trained, key=lambda epoch: (epoch.held_out, epoch.number))
        self.network.load_state_dict(self.best)
        network = self.network.eval().requires_grad_(False)
        return FittedFilter(network, tuple(self.epochs), best.number, self.held_out)

    def _pairs(self, images: PreparedImages, number: int) -> Pairs:
        return make_pairs(
            self.model,
            images,
            self.attacks,
            batch_size=self.settings.batch_size,
            seed=self._seed(number),
            on_batch=self.on_attack,
        )

    def _seed(self, number: int) -> int:
        return (self.settings.seed * 1_000_003 + number) % 2**63

    def _step(self, clean: Tensor, attacked: Tensor) -> Tensor:
        loss = _losses(clean, self.network(attacked)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _measured(self) -> tuple[float, float]:
        self.network.eval()
        losses, decibels = [], []
        with torch.no_grad():
            order = range(len(self.held_out))
            for clean, attacked in self.held_out.batches(order, self.settings.batch_size, self.device):
                purified = self.network(attacked)
                losses.append(_losses(clean, purified))
                decibels.append(psnr(clean, purified))
        return float(torch.cat(losses).mean()), float(torch.cat(decibels).mean())


def _losses(clean: Tensor, purified: Tensor) -> Tensor:
    """Return the loss of every image (N,): mean squared error + 0.001 · (1 − SSIM)."""
    error = (purified - clean).square().flatten(1).mean(1)
    return error + SSIM_WEIGHT * (1 - ssim(clean, purified))
