"""Attacked versions of clean images, to train a purifier with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import Attack, Fitted, frozen
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.errors import ArmorError
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress, silent


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
        return [
            attack.fit(model, passes, Generator().manual_seed(seed)) if isinstance(attack, Fitted) else attack
            for attack in attacks
        ]


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

    The model, without a purifier, is on the device to compute on and left as it was; attacks are ready to run. Pixels
    that are not finite are an ArmorError.
    """
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    attacked = torch.empty(len(images), *images[0][0].shape, dtype=torch.float16)
    done = 0
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
