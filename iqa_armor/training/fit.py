"""Fit a quality model to opinion scores."""

import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from iqa_armor.machine import choose_device
from iqa_armor.metrics.correlation import plcc, srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent
from iqa_armor.randomness import seeded
from iqa_armor.recipe import Training
from iqa_armor.training import DEFENSES, LOSSES
from iqa_armor.training.accelerator import accelerator_on
from iqa_armor.training.checkpoint import Checkpoint
from iqa_armor.training.descent import Epochs, decayed_optimizer, descend, epoch_seed, mirrored, run_epoch, warm_cosine
from iqa_armor.training.images import TrainingImages, predict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; epoch 0 is the network before fitting."""

    number: int
    loss: float  # mean over training batches, NaN for epoch 0
    srocc: float  # on the held-out tenth of the training images, as `plcc` is
    plcc: float
    seconds: float  # wall time with the check

    def __str__(self) -> str:
        return f"epoch {self.number}: loss {self.loss:.4f}, held-out SROCC {self.srocc:.3f}"


@dataclass(frozen=True)
class FitHistory:
    """Every epoch, the untouched network first, and the number of the one whose weights the model holds now."""

    epochs: tuple[Epoch, ...] = ()
    best: int = 0

    def facts(self) -> dict[str, Any]:
        """Return plain values to store with the model."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "best_epoch": self.best}


@dataclass(frozen=True)
class ScoreMoments:
    """Mean and standard deviation of scores; a negative spread turns their direction round."""

    center: float = 0.0
    spread: float = 1.0


def fit(
    model: QualityModel,
    images: TrainingImages,
    settings: Training,
    *,
    labels: ScoreMoments | None = None,
    device: torch.device | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> FitHistory:
    """Fit a model in place and leave it, in eval mode on its device, with the weights of its best epoch.

    The best epoch has the highest SROCC on the held-out tenth, which no reported number is taken from. Scores become
    (mos − center) / spread of `labels`; a negative spread makes small scores good. The checkpoint keeps the state after
    every epoch. Under a launcher each process has a device of its own.

    Raises:
        ArmorError: If the loss is not finite.
        RecipeError: If the checkpoint belongs to another run, or a loss or defense is unknown.
        OutputError: If the checkpoint cannot be written.
    """
    if settings.epochs == 0:
        return FitHistory()
    device = device or choose_device()
    # Dropout draws from the global generators.
    with seeded(settings.seed, device), accelerator_on(device, precision=settings.precision) as accelerator:
        fitting = _Fitting(model, images, settings, labels=labels or ScoreMoments(), accelerator=accelerator)
        fitting.start(checkpoint)
        while fitting.next_epoch <= settings.epochs:
            fitting.run_epoch(progress)
            if checkpoint is not None and accelerator.is_main_process:
                checkpoint.write(fitting.state())
        return fitting.finish()


class _Fitting:
    """One fit under way."""

    def __init__(
        self, model: QualityModel, images: TrainingImages, settings: Training, *, labels: ScoreMoments, accelerator: Any
    ) -> None:
        self.model, self.images, self.settings, self.labels = model, images, settings, labels
        self.accelerator = accelerator
        self.loss = LOSSES.read(settings.loss)
        self.defense = DEFENSES.read(settings.defense).of(settings, images.mos, labels.spread)
        model.requires_grad_(True)
        loader = images.loader(settings, accelerator.device)
        optimizer = decayed_optimizer(model, settings)
        # Steps of this process: Accelerate's schedule advances once per process and step.
        schedule = warm_cosine(optimizer, settings.epochs * len(loader))
        # Accelerate changes what it prepares; behind a shell of its own the model stays as it is.
        self.shell = nn.Sequential(model)
        self.network, self.optimizer, self.loader, self.schedule = accelerator.prepare(
            self.shell, optimizer, loader, schedule
        )
        self.epochs: Epochs[Epoch] = Epochs(lambda epoch: epoch.srocc)
        self.parts: dict[str, Any] = {"model": model, "optimizer": self.optimizer, "schedule": self.schedule}
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler

    @property
    def next_epoch(self) -> int:
        return len(self.epochs.done)

    def start(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            if self.accelerator.is_main_process:
                checkpoint.prepare()
            if checkpoint.resumes and checkpoint.path.is_file():
                self._restore(checkpoint.read())
                return
            if checkpoint.resumes:
                logger.info("nothing to resume (there is no %s); starting with the first epoch", checkpoint.path)
        self._note(0, math.nan, time.perf_counter())

    def run_epoch(self, progress: Progress) -> None:
        number, steps, started = self.next_epoch, len(self.loader), time.perf_counter()
        total = self.settings.epochs * steps
        self.loader.set_epoch(number)
        self.network.train()
        generator = Generator().manual_seed(epoch_seed(self.settings.seed, number))
        loss = run_epoch(
            self.loader,
            lambda batch: self._step(batch, generator),
            number=number,
            report=lambda done: progress("fine-tuning", (number - 1) * steps + done, total),
        )
        self._note(number, loss, started)
        progress("fine-tuning", number * steps, total, str(self.epochs.done[-1]))

    def _step(self, batch: tuple[Tensor, Tensor, Tensor], generator: Generator) -> Tensor:
        images, mos, _ = batch
        if self.settings.flip:
            (images,) = mirrored(images, generator=generator)
        targets = (mos - self.labels.center) / self.labels.spread
        images, targets = self.defense.batch(self.shell, images, targets)
        loss = self.loss(self.network(images).float(), targets)
        # Behind the forward pass in training mode, which changes buffers that this one reads.
        loss = loss + self.defense.penalty(self.shell, images)
        return descend(loss, self.optimizer, self.schedule, backward=self.accelerator.backward)

    def _note(self, number: int, loss: float, started: float) -> None:
        """Measure agreement on the held-out images, positive where scores have learnt their direction."""
        scores = predict(self.shell, self.images.held_out, batch_size=self.settings.batch_size)
        scores, mos = scores * math.copysign(1.0, self.labels.spread), self.images.held_out.mos
        agreement = float(srocc(scores, mos)), float(plcc(scores, mos))
        self.epochs.add(Epoch(number, loss, *agreement, time.perf_counter() - started), self.model)

    def state(self) -> dict[str, Any]:
        device = self.accelerator.device
        return {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "epochs": [asdict(epoch) for epoch in self.epochs.done],
            "best": self.epochs.weights,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            if name in state:  # version 0.1.0 kept no scaler, and no generator of CUDA
                part.load_state_dict(state[name])
        self.epochs.done = [Epoch(**epoch) for epoch in state["epochs"]]
        self.epochs.weights = state["best"]
        torch.set_rng_state(state["random"])
        if self.accelerator.device.type == "cuda" and state.get("cuda_random") is not None:
            torch.cuda.set_rng_state(state["cuda_random"], self.accelerator.device)
        logger.info("continuing after epoch %d of %d", self.next_epoch - 1, self.settings.epochs)

    def finish(self) -> FitHistory:
        self.model.load_state_dict(self.epochs.weights)
        self.model.eval()
        self.accelerator.wait_for_everyone()
        return FitHistory(tuple(self.epochs.done), self.epochs.best)
