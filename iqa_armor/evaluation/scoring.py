"""Scores of one model on one image set, clean and attacked, one number per image."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from iqa_armor.attacks.base import Direction, frozen
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.defenses.purified import Purified
from iqa_armor.errors import DataError
from iqa_armor.evaluation.journal import Block, Columns, Journal, digest_of
from iqa_armor.evaluation.shards import Shard
from iqa_armor.evaluation.work import QUALITY, Batch, Work

Column = Mapping[str, Mapping[str, Tensor]]  # attack → budget → (N,)


@dataclass(frozen=True)
class ImageScores:
    """Per-image results of one model on one image set, on the CPU in float64.

    Args:
        names: Names of the images.
        mos: Opinion scores (N,), or None.
        clean: Scores of the clean images (N,), in model units.
        attacked: Scores of the attacked images, by attack and budget key.
        linf: True largest change of a pixel, by attack and budget key.
        psnr: Decibels between clean and attacked, by attack and budget key.
        seconds_per_image: Median time of the clean forward passes.
        swept: Attacks that were run at every budget.
        direction: Whether attacks raise (+1) or lower (-1) the score.
        bare: Scores of the clean images by the model behind a purifier (N,), or None without one.
        quality: Quality of the attacked images behind a purifier, by attack and budget key.
        clean_quality: Quality of the clean images behind a purifier (N,).
    """

    names: tuple[str, ...]
    mos: Tensor | None
    clean: Tensor
    attacked: Column
    linf: Column
    psnr: Column
    seconds_per_image: float
    swept: tuple[str, ...] = ()
    direction: Direction = 1
    bare: Tensor | None = None
    quality: Column = field(default_factory=dict)
    clean_quality: Tensor | None = None

    def worst(self) -> dict[str, Tensor]:
        """Return, by budget, the farthest score of every image over the swept attacks; nothing for fewer than two."""
        if len(self.swept) < 2:
            return {}
        budgets = self.attacked[self.swept[0]]
        stacks = {key: torch.stack([self.attacked[name][key] for name in self.swept]) for key in budgets}
        return {key: stack.amax(0) if self.direction > 0 else stack.amin(0) for key, stack in stacks.items()}


def score_images(
    work: Work,
    *,
    journal: Journal | None = None,
    shard: Shard | None = None,
    on_image: Callable[[int], None] | None = None,
) -> ImageScores:
    """Score every image clean and under every attack and budget; only numbers are kept.

    The model is frozen meanwhile and left as it was; attacked images are checked against budget and range.
    Blocks that the journal holds are not computed again, but their images are compared.

    Args:
        work: What to score.
        journal: Where finished blocks are kept.
        shard: Which blocks this process works on.
        on_image: Called with the number of images done after each block.

    Raises:
        ModelLoadError: If a score is not finite, naming model and image.
        DataError: If an image cannot be read, or is not what it was when the evaluation began.
        ArmorError: If an attack leaves its budget or the range of pixels.
    """
    journal, shard = journal or Journal(), shard or Shard()
    blocks = journal.finished(work.part)
    size, done = work.settings.batch_size, 0
    numbers = [n for n in range(-(-len(work.images) // size)) if n in blocks or shard.owns(n)]
    with frozen(work.model):
        for number, parts in _decoded(work, numbers):
            if number in blocks:
                _require_same(blocks[number], parts, work)
            else:
                blocks[number] = _score_block(work, number, parts)
                journal.add(work.part, blocks[number])
            done += sum(len(part) for part in parts)
            if on_image is not None:
                on_image(done)
    return _joined(work, [block for _, block in sorted(shard.gather(blocks).items())])


def _decoded(work: Work, numbers: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield blocks of images as batches of one size each; the next one is decoded meanwhile."""
    size, total = work.settings.batch_size, len(work.images)

    def decode(number: int) -> list[Tensor]:
        chosen = work.images.select(range(number * size, min((number + 1) * size, total)))
        return [pixels for pixels, _, _ in batches(PreparedImages(chosen, work.prepare), size)]

    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(decode, number) for number in numbers[:1]]
        for position, number in enumerate(numbers):
            parts = waiting.pop().result()
            waiting += [pool.submit(decode, following) for following in numbers[position + 1 : position + 2]]
            yield number, parts


def _require_same(block: Block, parts: Sequence[Tensor], work: Work) -> None:
    if block.digest != _digest(parts):
        first = work.images.names[block.number * work.settings.batch_size]
        raise DataError(
            f"the {len(block.clean)} images from {first!r} on are not those that this evaluation began with; "
            "restore them, or name another output folder"
        )


def _digest(parts: Sequence[Tensor]) -> str:
    return "-".join(digest_of(part) for part in parts)


def _score_block(work: Work, number: int, parts: Sequence[Tensor]) -> Block:
    block = Block(number, _digest(parts), [], {measure: {} for measure in work.measures}, [])
    first = number * work.settings.batch_size
    for pixels in parts:
        names = work.images.names[first + len(block.clean) :]
        batch = Batch(work, pixels.to(work.settings.device), names, block)
        batch.score_clean()
        batch.score_attacked()
    return block


def _joined(work: Work, blocks: Sequence[Block]) -> ImageScores:
    images = work.images

    def column(measure: str) -> dict[str, dict[str, Tensor]]:
        attacks: Columns = blocks[0].columns
        return {
            attack: {
                key: torch.tensor([v for b in blocks for v in b.columns[measure][attack][key]], dtype=torch.float64)
                for key in budgets
            }
            for attack, budgets in attacks[measure].items()
        }

    def row(name: Literal["clean", "bare", "clean_quality"]) -> Tensor:
        return torch.tensor([value for block in blocks for value in getattr(block, name)], dtype=torch.float64)

    is_purified = isinstance(work.model, Purified)
    return ImageScores(
        names=images.names,
        mos=None if images.mos is None else images.mos.double(),
        clean=row("clean"),
        attacked=column("attacked"),
        linf=column("linf"),
        psnr=column("psnr"),
        seconds_per_image=statistics.median(value for block in blocks for value in block.seconds),
        swept=tuple(name for name, attack in work.settings.build_attacks().items() if attack.norm == "linf"),
        direction=work.settings.direction,
        bare=row("bare") if is_purified else None,
        quality=column(QUALITY) if is_purified else {},
        clean_quality=row("clean_quality") if is_purified else None,
    )
