"""Fit a quality model to opinion scores."""

import logging
import math
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.errors import ArmorError, RecipeError, calling, reading
from iqa_armor.machine import choose_device
from iqa_armor.metrics.correlation import plcc, srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent
from iqa_armor.randomness import seeded
from iqa_armor.recipe import Training
from iqa_armor.surgery.edits import moved_at_random
from iqa_armor.training import DEFENSES, LOSSES, descent
from iqa_armor.training.accelerator import accelerator_on, log_epoch
from iqa_armor.training.checkpoint import AFRESH, Checkpoint
from iqa_armor.training.defenses import FitContext, Step
from iqa_armor.training.descent import AveragedWeights, Diverged, Epochs, LossWatch
from iqa_armor.training.history import Epoch, FitHistory, ScoreMoments, worst_case_srocc
from iqa_armor.training.images import TrainingImages, drawn, predict, read_by_workers

logger = logging.getLogger(__name__)
ATTEMPTS = 3


def fit(
    model: QualityModel,
    images: TrainingImages,
    settings: Training,
    *,
    labels: ScoreMoments | None = None,
    teacher: ScoreFn | None = None,
    is_pretrained: bool = True,
    device: torch.device | None = None,
    checkpoint: Checkpoint | None = None,
    log_to: str | None = None,
    progress: Progress = silent,
) -> FitHistory:
    """Fit a model in place and leave it, in eval mode on its device, with the weights of its best epoch.

    The best epoch, the start being one, has most of what `settings.select` asks for on the held-out tenth. Targets are
    (mos − center) / spread of `labels`, whose sign may turn. What runs away begins anew, twice, in smaller steps.

    Scores of a model that is more than a start are in the unit of the targets already; so are those that the teacher,
    the frozen original on the device, gives images (N, 3, H, W) in [0, 1]. Statistics of pretrained batch norms may be
    worth freezing. The checkpoint keeps the state after every epoch, and trackers get what each gave: `log_to` is such
    as "tensorboard,wandb:DIR", see `accelerator.trackers`.

    Raises:
        ArmorError: If the loss runs away at every step size that was tried.
        RecipeError: If the checkpoint belongs to another run, or a loss or defense is unknown.
        OutputError: If the checkpoint cannot be written.
    """
    if settings.epochs == 0:
        return FitHistory()
    device, labels, rate = device or choose_device(), labels or ScoreMoments(), settings.learning_rate
    start, least = descent.copied(model, on="cpu"), rate / 4 ** (ATTEMPTS - 1)
    is_frozen = settings.norms == "frozen" or (settings.norms == "auto" and is_pretrained and settings.batch_size < 32)
    begin = partial(_Fitting, model, images, labels=labels, teacher=teacher, is_frozen=is_frozen)
    while True:
        slower = settings.model_copy(update={"learning_rate": rate})
        told = slower.model_dump(mode="json")
        tracked = accelerator_on(device, precision=settings.precision, log_to=log_to, settings=told)
        with seeded(settings.seed, device), tracked as accelerator:  # dropout draws from the global generators
            try:
                return begin(settings=slower, accelerator=accelerator).run(checkpoint, progress)
            except Diverged as error:
                if rate <= least:
                    tried = f"{error}, even at a step size of {rate:g}"
                    raise ArmorError(f"{tried}; lower --learning-rate, or check the scores") from error
                logger.warning("%s; beginning anew with a step size of %g", error, rate / 4)
                model.load_state_dict(start)
                rate, checkpoint = rate / 4, None if checkpoint is None else replace(checkpoint, resumes=False)


@dataclass
class _Fitting:
    model: QualityModel
    images: TrainingImages
    settings: Training
    labels: ScoreMoments
    teacher: ScoreFn | None
    is_frozen: bool
    accelerator: Any

    def __post_init__(self) -> None:
        model, images, settings = self.model, self.images, self.settings
        self.loss = LOSSES.read(settings.loss)
        unlabelled = None if images.unlabelled is None else partial(drawn, images.unlabelled)
        context = FitContext(settings, images.mos, self.labels.spread, self.loss, model.std, self.teacher, unlabelled)
        self.defense = DEFENSES.read(settings.defense).of(context)
        with calling(f"the loss {settings.loss}"):
            self.watch = LossWatch(self.loss, (images.mos - images.mos.mean()) / images.mos.std())
        model.requires_grad_(True)
        loader = images.loader(settings, self.accelerator.device)
        optimizer = descent.decayed_optimizer(model, settings)
        schedule = descent.warm_cosine(optimizer, settings.epochs * len(loader))
        # Accelerate changes what it prepares; behind a shell of its own the model stays as it is.
        self.shell = nn.Sequential(model)
        prepared = self.accelerator.prepare(self.shell, optimizer, loader, schedule)
        self.network, self.optimizer, self.loader, self.schedule = prepared
        self.epochs: Epochs[Epoch] = Epochs(lambda epoch: epoch.merit(settings.select))
        self.average = AveragedWeights(model, settings.ema) if settings.ema else None
        parts = {"model": model, "optimizer": self.optimizer, "schedule": self.schedule, "watch": self.watch}
        parts |= {"scaler": self.accelerator.scaler, "average": self.average}
        self.parts: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}

    def run(self, checkpoint: Checkpoint | None, progress: Progress) -> FitHistory:
        self._start(checkpoint)
        while len(self.epochs.done) <= self.settings.epochs:
            self._run_epoch(progress)
            if checkpoint is not None:
                checkpoint.write(self._state())
        self.watch.check()
        self.model.eval().load_state_dict(self.epochs.weights)
        return FitHistory(tuple(self.epochs.done), self.epochs.best, self.settings.learning_rate)

    def _start(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            weights = sum(value.nbytes for value in self.model.state_dict().values())
            checkpoint.prepare(takes=4 * weights)  # the present ones, the best ones, and two moments of each
            if checkpoint.resumes and checkpoint.path.is_file():
                self._restore(checkpoint)
                return
            if checkpoint.resumes:
                logger.info("nothing to resume (there is no %s); starting with the first epoch", checkpoint.path)
        self._note(0, math.nan, time.perf_counter())

    def _run_epoch(self, progress: Progress) -> None:
        number, steps, started = len(self.epochs.done), len(self.loader), time.perf_counter()
        before, total = (number - 1) * steps, self.settings.epochs * steps
        self.loader.set_epoch(number)
        self.network.train()
        for module in self.network.modules() if self.is_frozen else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # so that it uses, and keeps, the statistics that it has
        generator = Generator().manual_seed(descent.epoch_seed(self.settings.seed, number))
        loss = descent.run_epoch(
            read_by_workers(self.loader),
            partial(self._step, generator),
            number=number,
            report=lambda done: progress("fine-tuning", before + done, total),
        )
        self._note(number, loss, started)
        progress("fine-tuning", number * steps, total, str(self.epochs.done[-1]))

    def _step(self, generator: Generator, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        images, mos, _ = batch
        if self.settings.flip:
            (images,) = descent.mirrored(images, generator=generator)
        images = moved_at_random(images, self.settings.views, generator=generator)
        done = float(self.schedule.scheduler.last_epoch / (self.settings.epochs * len(self.loader)))
        step = Step(self.shell, images, (mos - self.labels.center) / self.labels.spread, done)
        fitted, labels = self.defense.batch(step)

        def objective() -> Tensor:
            loss = self.loss(self.network(fitted).float(), labels)
            self.watch.see(loss)
            # Behind the forward pass in training mode, which changes buffers that this one reads.
            return loss + self.defense.penalty(step)

        def backward(loss: Tensor) -> None:
            self.accelerator.backward(loss)
            moved.close()  # the step is made from the weights as they were
            if self.settings.clip > 0:
                self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip)

        with ExitStack() as moved:
            moved.enter_context(self.defense.moved(self.shell, objective))
            found = descent.descend(objective(), self.optimizer, self.schedule, backward=backward)
        if self.average is not None:
            self.average.update()
        return found

    def _note(self, number: int, loss: float, started: float) -> None:
        """Measure agreement on the held-out images, positive where scores have learnt their direction."""
        held, sign, size = self.images.held_out, math.copysign(1.0, self.labels.spread), self.settings.batch_size
        with self.average.in_place() if self.average is not None else nullcontext():
            scores = sign * predict(self.shell, held, batch_size=size)
            agreement = float(srocc(scores, held.mos)), float(plcc(scores, held.mos))
            is_clean = self.settings.select == "clean"
            worst = None if is_clean else worst_case_srocc(self.shell, self.images, sign=sign, batch_size=size)
            epoch = Epoch(number, loss, *agreement, time.perf_counter() - started, worst)
            self.epochs.add(epoch, self.model)
        log_epoch(self.accelerator, epoch)

    def _state(self) -> dict[str, Any]:
        device, epochs = self.accelerator.device, [asdict(epoch) for epoch in self.epochs.done]
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"epochs": epochs, "best": self.epochs.weights, "learning_rate": self.settings.learning_rate}
        cuda_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return state | {"random": torch.get_rng_state(), "cuda_random": cuda_random}

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.read()
        with reading(checkpoint.path, RecipeError, says="is no usable checkpoint", advice=AFRESH):
            for name, part in self.parts.items():
                if name in state:  # version 0.1.0 kept no scaler, no watch and no generator of CUDA
                    part.load_state_dict(state[name])
            self.epochs.done = [Epoch(**epoch) for epoch in state["epochs"]]
            self.epochs.weights = state["best"]
            if not self.epochs.done or self.epochs.weights.keys() != state["model"].keys():
                raise ValueError("it holds no epochs of this network")
            rate = state.get("learning_rate", self.settings.learning_rate)  # version 0.1.0 had one
            torch.set_rng_state(state["random"])
            if self.accelerator.device.type == "cuda" and state.get("cuda_random") is not None:
                torch.cuda.set_rng_state(state["cuda_random"], self.accelerator.device)
        self.settings = self.settings.model_copy(update={"learning_rate": rate})
        logger.info("continuing after epoch %d of %d", len(self.epochs.done) - 1, self.settings.epochs)
