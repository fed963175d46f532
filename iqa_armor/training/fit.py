"""Fit a quality model to opinion scores."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from iqa_armor.data.prepared import PreparedImages
from iqa_armor.errors import ArmorError
from iqa_armor.machine import choose_device
from iqa_armor.metrics import plcc, srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.randomness import seeded
from iqa_armor.recipe import Training
from iqa_armor.training.accelerator import accelerator_on
from iqa_armor.training.checkpoint import read_checkpoint, write_atomically
from iqa_armor.training.losses import LOSSES
from iqa_armor.training.predict import predict
from iqa_armor.training.robust import make_defense
from iqa_armor.training.setup import WarmCosine, make_loader, parameter_groups, require_one_size

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Args:
        number: From 1; 0 is the network before fitting.
        loss: Mean training loss, NaN for epoch 0.
        srocc: On the held-out tenth of the training images, in [-1, 1].
        plcc: Likewise.
        seconds: Wall time of the epoch with its check.
    """

    number: int
    loss: float
    srocc: float
    plcc: float
    seconds: float


@dataclass(frozen=True)
class Fit:
    """The outcome of a fit.

    Args:
        epochs: Every epoch, the untouched network first.
        best: Number of the epoch whose weights the model holds now.
    """

    epochs: tuple[Epoch, ...]
    best: int


@dataclass(frozen=True)
class FitData:
    """Prepared images of a fit.

    Args:
        training: Images fitted to.
        held_out: Tenth of the training images that chooses the epoch.
        center: Opinion score that becomes 0 for the network.
        spread: Opinion scores that become 1 for the network; negative where small scores mean good quality.
    """

    training: PreparedImages
    held_out: PreparedImages
    center: float = 0.0
    spread: float = 1.0


OnStep = Callable[[int, int, Epoch | None], None]


def fit(
    model: QualityModel,
    data: FitData,
    settings: Training,
    *,
    device: torch.device | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Fit:
    """Fit a model in place and leave it, in eval mode on its device, with the weights of its best epoch.

    The best epoch has the highest SROCC on the held-out tenth, which no reported number is taken from.

    Args:
        model: Model whose scores are fitted to (mos − center) / spread.
        data: Prepared images, all of one size.
        settings: Epochs, step size, loss and the rest.
        device: Where to compute; None lets `choose_device` decide. Under `accelerate launch` each process has its own.
        checkpoint: File kept after every epoch, or None.
        fingerprint: Of model, data and settings; a checkpoint of another one is refused.
        resume: Whether to continue from `checkpoint` if it exists.
        on_step: Called with (steps done, steps in all, the epoch if one just ended).

    Raises:
        DataError: If there are fewer than two images, or they differ in size.
        ArmorError: If the loss is not finite.
        RecipeError: If the checkpoint belongs to another run.
    """
    if settings.epochs == 0:
        return Fit((), 0)
    require_one_size(data.training, data.held_out)
    device = device or choose_device()
    # Dropout draws from the global generators.
    with seeded(settings.seed, device), accelerator_on(device, precision=settings.precision) as accelerator:
        run = _Run(model, data, settings, accelerator)
        run.start(checkpoint if resume else None, fingerprint)
        while run.next_epoch <= settings.epochs:
            run.epoch(on_step)
            if checkpoint is not None and accelerator.is_main_process:
                write_atomically(run.state(fingerprint), checkpoint)
        return run.finish()


class _Run:
    """One fit under way."""

    def __init__(self, model: QualityModel, data: FitData, settings: Training, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.settings = settings
        self.data = data
        self.model = model
        self.loss = LOSSES[settings.loss]
        self.defense = make_defense(settings, data.training.mos, spread=data.spread)
        model.requires_grad_(True)
        loader = make_loader(data.training, settings, accelerator.device)
        optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.learning_rate)
        # Steps of this process: Accelerate's scheduler advances once per process and step.
        steps = settings.epochs * len(loader)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmCosine(steps))
        # Accelerate changes what it prepares; behind a shell of its own the model stays as it is.
        self.shell = nn.Sequential(model)
        self.network, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            self.shell, optimizer, loader, schedule
        )
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    @property
    def next_epoch(self) -> int:
        return self.epochs[-1].number + 1

    def start(self, checkpoint: Path | None, fingerprint: str) -> None:
        if checkpoint is not None and checkpoint.is_file():
            self._restore(read_checkpoint(checkpoint, fingerprint=fingerprint))
            return
        if checkpoint is not None:
            logger.info("nothing to resume (there is no %s); starting with the first epoch", checkpoint)
        started = time.perf_counter()
        before = self._held_out_agreement()
        self.epochs.append(Epoch(0, math.nan, *before, time.perf_counter() - started))

    def epoch(self, on_step: OnStep | None) -> None:
        number, total, started = self.next_epoch, self.settings.epochs * len(self.loader), time.perf_counter()
        self.loader.set_epoch(number)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + number)
        self.network.train()
        losses: list[Tensor] = []
        for images, mos, _ in self.loader:
            losses.append(self._step(images, mos, generator))
            if on_step is not None:
                on_step((number - 1) * len(self.loader) + len(losses), total, None)
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise ArmorError(f"the loss of epoch {number} is {loss}; lower --learning-rate, or check the scores")
        agreement = self._held_out_agreement()
        if not self.best or _rank(agreement[0]) > max(_rank(e.srocc) for e in self.epochs if e.number):
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.epochs.append(Epoch(number, loss, *agreement, time.perf_counter() - started))
        if on_step is not None:
            on_step(number * len(self.loader), total, self.epochs[-1])

    def _step(self, images: Tensor, mos: Tensor, generator: torch.Generator) -> Tensor:
        if self.settings.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)
        targets = (mos - self.data.center) / self.data.spread
        images, targets = self.defense.batch(self.shell, images, targets)
        loss = self.loss(self.network(images).float(), targets)
        # Behind the forward pass in training mode, which changes buffers that this one reads.
        loss = loss + self.defense.penalty(self.shell, images)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _held_out_agreement(self) -> tuple[float, float]:
        """Return SROCC and PLCC on the held-out images, positive where scores have learnt their direction."""
        scores = predict(self.shell, self.data.held_out, batch_size=self.settings.batch_size)
        scores = scores * math.copysign(1.0, self.data.spread)
        mos = self.data.held_out.mos
        return float(srocc(scores, mos)), float(plcc(scores, mos))

    def state(self, fingerprint: str) -> dict[str, Any]:
        return {
            "fingerprint": fingerprint,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.model.load_state_dict(state["model"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        logger.info("continuing after epoch %d of %d", self.epochs[-1].number, self.settings.epochs)

    def finish(self) -> Fit:
        fitted = [epoch for epoch in self.epochs if epoch.number]
        best = max(fitted, key=lambda epoch: (_rank(epoch.srocc), -epoch.number))
        self.model.load_state_dict(self.best)
        self.model.eval()
        self.accelerator.wait_for_everyone()
        return Fit(tuple(self.epochs), best.number)


def _rank(value: float) -> float:
    """Return a correlation for comparing; an undefined one (constant scores) is the worst."""
    return value if math.isfinite(value) else -2.0
