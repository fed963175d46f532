"""What is measured of a model by itself: the range of its predictions, and what a score costs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import ImageSet
from iqa_armor.data.prepared import Prepare, PreparedImages, batches
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import QualityModel, ScoreScale
from iqa_armor.models.outputs import plain_attention
from iqa_armor.models.training_scores import TrainingScores


def measure_scale(
    model: QualityModel,
    images: ImageSet,
    *,
    prepare: Prepare | None = None,
    batch_size: int = 8,
    on_batch: Callable[[int], None] = lambda done: None,  # noqa: ARG005
) -> ScoreScale:
    """Return the smallest and largest prediction on clean training images, where the model is; it is left as it was.

    `prepare` is the model's own by default; `on_batch` is called with the number of images done; errors as in
    `scale_of`. Source: [RA] Meleshin et al., arXiv:2506.04951, Section 4: β0, β1 of eq. 9.
    """
    return scale_of(model, _predictions(model, images, prepare or model.prepare, batch_size, on_batch), images.names)


def measure_training_scores(model: QualityModel, images: ImageSet, on_batch: Callable[[int], None]) -> None:
    """Give a model, in place, what clean training images score where it is, and how they were rated."""
    scores = _predictions(model, images, model.prepare, 8, on_batch)
    model.scale = model.scale or scale_of(model, scores, images.names)
    model.training_scores = TrainingScores.of(scores, images.mos, rising=model.higher_is_better)


def _predictions(
    model: QualityModel, images: ImageSet, prepare: Prepare, batch_size: int, on_batch: Callable[[int], None]
) -> Tensor:
    parts: list[Tensor] = []
    with frozen(model), torch.no_grad():
        for pixels, _, indices in batches(PreparedImages(images, prepare), batch_size):
            parts.append(model(pixels.to(model.mean.device)).double().cpu())
            on_batch(int(indices[-1]) + 1)
    return torch.cat(parts)


def record_scale(model: QualityModel, scores: Tensor, names: Sequence[str], mos: Tensor | None) -> None:
    """Give a model, in place, what its training images scored, (N,), and how people rated them; as in `scale_of`."""
    model.scale = scale_of(model, scores, names)
    model.training_scores = TrainingScores.of(scores, mos, rising=model.higher_is_better)


def scale_of(model: QualityModel, scores: Tensor, names: Sequence[str]) -> ScoreScale:
    """Return the range of the scores (N,) of clean training images; a ModelLoadError if not finite, or all the same."""
    if not bool(scores.isfinite().all()):
        bad = names[int((~scores.isfinite()).nonzero()[0])]
        raise ModelLoadError(f"{model.name} gives a score that is not finite for training image {bad!r}")
    low, high = float(scores.min()), float(scores.max())
    if not low < high:
        same = f"gives {low:.6g} for all {len(names)} training images"
        raise ModelLoadError(f"{model.name} {same}, so its scores have no range")
    return ScoreScale(low, high, model.higher_is_better)


def count_flops(model: QualityModel, image: Tensor) -> int:
    """Return the floating-point operations of scoring one prepared image (3, H, W), the same on every device.

    Convolutions, matrix products and weighted sums of table rows (embedding bags) are counted, two operations per
    multiply-add, and attention as the products it is made of; FFTs, element-wise work, and what a first call prepares
    for all later ones, are not. So an AOC or AOL layer of k × k taps costs 2·k²·C_in·C_out·H·W, as one plain
    convolution; a Cayley layer 8·F·C_in² for its inverse as applied in the spectrum, of the F = H·W/2 or little more
    frequencies that determine a real map, and the plain convolution of its other C_out − C_in channels.
    """
    counter, batch = FlopCounterMode(display=False, custom_mapping=_TABLE_SUMS), image[None].to(model.mean.device)
    # Attention runs as matrix products: some devices have one kernel for all of it, which hides them.
    with frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), plain_attention():
        model(batch)
        with counter:
            model(batch)
    return int(counter.get_total_flops())


# On a processor a Cayley layer sums table rows where it multiplies matrices elsewhere.
_TABLE_SUMS: dict[Any, Any] = dict.fromkeys(
    (torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only),
    lambda table, places, *_, **__: 2 * places[0] * table[1],
)
