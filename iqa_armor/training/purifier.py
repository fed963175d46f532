"""Train the FCN filter to turn attacked images back into clean ones."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, Fitted, frozen
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.defenses.purifiers.fcn import FCN, new_fcn
from iqa_armor.errors import ArmorError, DataError, RecipeError, reading
from iqa_armor.metrics.fidelity import SSIM_WINDOW, psnr, ssim
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent
from iqa_armor.training.accelerator import accelerator_on, log_epoch
from iqa_armor.training.checkpoint import AFRESH, Checkpoint
from iqa_armor.training.descent import FAR, Diverged, Epochs, descend, epoch_seed, mirrored, run_epoch, warm_cosine
from iqa_armor.training.filter_settings import FilterSettings
from iqa_armor.training.images import TrainingImages


@dataclass(frozen=True)
class Pairs:
    """N prepared images of one size, and the same attacked."""

    clean: PreparedImages
    attacked: Tensor  # (N, 3, H, W) in [0, 1], in half precision: an error below 0.07/255

    def __len__(self) -> int:
        return len(self.attacked)

    def batches(self, order: Sequence[int], size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (clean, attacked) images in float32 on a device, at most `size` at once."""
        places = torch.tensor(order)
        for clean, _, numbers in batches(self.clean.select(order), size):
            yield clean.to(device), self.attacked[places[numbers]].to(device).float()


def fit_attacks(
    model: QualityModel, attacks: Sequence[Attack], images: PreparedImages, *, batch_size: int, seed: int
) -> list[Attack]:
    """Return attacks that are ready to run: those that are fitted are, on these images, others are as they were."""

    def passes() -> Iterator[Tensor]:
        return (clean.to(model.mean.device) for clean, _, _ in batches(images, batch_size))

    with frozen(model):
        return [a.fit(model, passes, Generator().manual_seed(seed)) if isinstance(a, Fitted) else a for a in attacks]


def make_pairs(
    model: QualityModel,
    images: PreparedImages,
    attacks: Sequence[Attack],
    *,
    batch_size: int,
    seed: int,
    progress: Progress = silent,
) -> Pairs:
    """Attack every image once; the images, of one size, take turns with the attacks in an order that the seed draws.

    The model, without a purifier, is on the device and left as it was. Pixels that are not finite are an ArmorError.
    """
    generator, done = Generator().manual_seed(seed), 0
    order = torch.randperm(len(images), generator=generator)
    attacked = torch.empty(len(images), *images[0][0].shape, dtype=torch.float16)
    with frozen(model):
        for number, attack in enumerate(attacks):
            mine = order[number :: len(attacks)]
            for clean, _, places in batches(images.select(mine.tolist()), batch_size):
                moved = attack(model, clean.to(model.mean.device), generator).detach()
                if not bool(moved.isfinite().all()):
                    raise ArmorError(f"attack {attack} gave pixels that are not finite; leave it out")
                attacked[mine[places]] = moved.half().cpu()
                done += len(clean)
                progress("attacking", done, len(images))
    return Pairs(images, attacked)


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
    checkpoint: Checkpoint | None = None,
    log_to: str | None = None,
    progress: Progress = silent,
) -> FittedFilter:
    """Return a filter trained on attacks of a model, which is left as it was.

    Pairs are made once, as `make_pairs` says, or anew for every epoch where the settings say so; held-out pairs stay.
    The checkpoint keeps the state after every epoch, trackers get what it gave (`accelerator.trackers`). Images smaller
    than 11×11 are a DataError, a checkpoint of another run a RecipeError, a loss that is not finite or ran away and an
    attack that fails an ArmorError.

    Source: [AP] Gushchin et al., arXiv:2404.06957, for the filter and for training on pairs. The loss, mean squared
    error + 0.001 · (1 − SSIM), Adam and its step sizes, mirrored pairs, and the choice of the epoch are (ours).
    """
    if min(images.fitted[0][0].shape[-2:]) < SSIM_WINDOW:
        raise DataError("training a purifier needs images of at least 11x11 pixels; give a larger --input-size")
    told = settings.model_dump(mode="json")
    with accelerator_on(model.mean.device, precision="no", log_to=log_to, settings=told) as tracked:
        try:
            return _FilterTraining(model, images, attacks, settings, checkpoint, tracked, progress).run()
        except Diverged as error:
            raise ArmorError(f"{error}; lower --learning-rate, or look at the images") from error


@dataclass
class _FilterTraining:
    model: QualityModel
    images: TrainingImages
    attacks: list[Attack]
    settings: FilterSettings
    checkpoint: Checkpoint | None
    accelerator: Any
    progress: Progress

    def __post_init__(self) -> None:
        kept = self.checkpoint
        if kept is not None:
            kept.prepare()
        # Before any attack is run: it may be refused.
        self.state = kept.read() if kept is not None and kept.resumes and kept.path.is_file() else None
        self.device = self.model.mean.device
        self.held_out, self.pairs = self._pairs(self.images.held_out, 0), self._pairs(self.images.fitted, 1)
        self.network = new_fcn(self.settings.seed).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)
        self.steps = math.ceil(len(self.pairs) / self.settings.batch_size)
        self.schedule = warm_cosine(self.optimizer, self.settings.epochs * self.steps)
        self.epochs: Epochs[FilterEpoch] = Epochs(lambda epoch: -epoch.held_out)
        self.parts: dict[str, Any] = {"model": self.network, "optimizer": self.optimizer, "schedule": self.schedule}

    def run(self) -> FittedFilter:
        if self.checkpoint is None or self.state is None:
            self._note(0, math.nan, time.perf_counter())
        else:
            self._restore(self.checkpoint, self.state)
        for number in range(len(self.epochs.done), self.settings.epochs + 1):
            self._run_epoch(number)
            if self.checkpoint is not None:
                kept = {name: part.state_dict() for name, part in self.parts.items()}
                epochs = [asdict(epoch) for epoch in self.epochs.done]
                self.checkpoint.write(kept | {"epochs": epochs, "best": self.epochs.weights})
        first, last = self.epochs.done[0].held_out, self.epochs.done[-1].held_out
        if self.epochs.best == 0 and not last <= FAR * first:
            raise Diverged(f"the loss ran away: {last:.3g}, a filter that does nothing has {first:.3g}")
        self.network.load_state_dict(self.epochs.weights)
        network = self.network.eval().requires_grad_(False)
        return FittedFilter(network, tuple(self.epochs.done), self.epochs.best, self.held_out)

    def _restore(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        with reading(checkpoint.path, RecipeError, says="is no usable checkpoint", advice=AFRESH):
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.epochs.done = [FilterEpoch(**epoch) for epoch in state["epochs"]]
            self.epochs.weights = state["best"]

    def _run_epoch(self, number: int) -> None:
        started = time.perf_counter()
        if self.settings.fresh and number > 1:
            self.pairs = self._pairs(self.pairs.clean, number)
        generator = Generator().manual_seed(epoch_seed(self.settings.seed, number))
        order = torch.randperm(len(self.pairs), generator=generator).tolist()
        self.network.train()
        total, before = self.settings.epochs * self.steps, (number - 1) * self.steps
        loss = run_epoch(
            self.pairs.batches(order, self.settings.batch_size, self.device),
            lambda pair: self._step(*mirrored(*pair, generator=generator)),
            number=number,
            report=lambda done: self.progress("training the filter", before + done, total),
        )
        self._note(number, loss, started)

    def _note(self, number: int, loss: float, started: float) -> None:
        epoch = FilterEpoch(number, loss, *self._measured(), time.perf_counter() - started)
        self.epochs.add(epoch, self.network)
        log_epoch(self.accelerator, epoch)
        self.progress("epochs", number, self.settings.epochs, str(epoch))

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
