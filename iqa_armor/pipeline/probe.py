"""A linear probe: where a new head begins."""

import torch
from torch import Tensor, fx, nn

from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.progress import Progress
from iqa_armor.surgery.edits import last_linear
from iqa_armor.training.history import ScoreMoments
from iqa_armor.training.images import TrainingImages, predict

STRENGTHS = 10.0 ** torch.arange(-4, 5, 0.5, dtype=torch.float64)  # of the mean squared singular value


def probe_head(
    model: QualityModel, images: TrainingImages, labels: ScoreMoments, *, fresh: object, progress: Progress
) -> float | None:
    """Set a traced model's new last layer, of one output, to the ridge regression of scores on its pooled features.

    The regression is on standardised features, in closed form; its strength is the one whose predictions are nearest to
    the scores of the held-out tenth. Scores are standardised by `labels`.

    Args:
        model: Model on the device, changed in place.
        images: Training images.
        labels: Moments of their scores.
        fresh: Names of the network's tensors that are new; None for all. Layers that are not are left as they are.
        progress: Told of scored images.

    Returns:
        SROCC of the probe on the held-out tenth; None where there is no such layer, or it is not new.

    Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
    2022, arXiv:2202.10054: linear probing, then fine-tuning.
    """
    network = model.network
    place = last_linear(network) if isinstance(network, fx.GraphModule) else None
    layer = None if place is None else network.get_submodule(place)
    is_new = fresh is None or f"{place}.weight" in fresh  # type: ignore[operator]
    if not (isinstance(layer, nn.Linear) and layer.out_features == 1 and is_new):
        return None
    parts = (images.fitted, images.held_out)
    features, held = (_inputs_of(layer, model, part, progress) for part in parts)
    known, wanted = ((part.mos.double() - labels.center) / labels.spread for part in parts)
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    choices = ridge((features - mean) / std, known)
    found = ((held - mean) / std) @ choices
    best = int((found - wanted[:, None]).square().mean(0).argmin())
    weight = choices[:, best] / std
    with torch.no_grad():
        layer.weight.copy_(weight[None])
        layer.bias.copy_(known.mean() - mean @ weight)
    return float(srocc(found[:, best], wanted))


def ridge(features: Tensor, targets: Tensor) -> Tensor:
    """Return weights (D, K) of centred features (N, D) that predict targets (N,), at every one of K strengths.

    They minimise ‖A w − (y − ȳ)‖² + λ ‖w‖², λ being a strength times the mean squared singular value.
    """
    left, singular, right = torch.linalg.svd(features, full_matrices=False)
    squared = singular.square()
    shrunk = singular / (squared + STRENGTHS[:, None] * squared.mean())
    weights: Tensor = right.mT @ (shrunk * (left.mT @ (targets - targets.mean()))).mT
    return weights


def _inputs_of(layer: nn.Module, model: QualityModel, images: object, progress: Progress) -> Tensor:
    """Return what a layer reads of every image, (N, D) in float64 on the CPU."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1).double().cpu()))
    try:
        predict(model, images, progress=progress, task="fitting the new head")  # type: ignore[arg-type]
    finally:
        handle.remove()
    return torch.cat(seen)
