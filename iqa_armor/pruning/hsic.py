"""How far a channel and the labels depend on each other, linearly or not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from iqa_armor.pruning.criteria import ReaderCriterion
from iqa_armor.pruning.samples import checked, varies

# Kernels are compared pair by pair of samples: at most this many values at once.
CHUNK = 2**22


@dataclass(frozen=True)
class Hsic(ReaderCriterion):
    """The Hilbert-Schmidt independence criterion between each channel and the labels.

    tr(K H L H) / (n − 1)², with Gaussian kernels exp(−d² / 2σ²). σ is the median distance between two samples; of those
    that differ, since a channel behind a ReLU may be 0 on most (ours). A constant channel gets 0. Neither scale nor
    shift nor the sign of channel or labels matters.

    Source: Gretton et al., "Measuring Statistical Dependence with Hilbert-Schmidt Norms", ALT 2005, Definition 2 (the
    estimator). One channel and one layer at a time: ours.
    """

    def score(self, activations: Tensor, labels: Tensor) -> Tensor:
        """Return dependence (C,) of activations (n, C), 0 or above, of independent ones near 0; errors of `checked`."""
        activations, labels = checked(activations, labels)
        count = len(labels)
        left, right = torch.triu_indices(count, count, offset=1)
        kernel = torch.eye(count, dtype=labels.dtype)
        kernel[left, right] = kernel[right, left] = _gaussian((labels[left] - labels[right]).unsqueeze(0)).squeeze(0)
        centered = kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()
        found = [
            # tr(K C) = Σ_i C_ii + 2 Σ_{i<j} K_ij C_ij, the diagonal of K being 1.
            centered.trace() + 2 * (_gaussian(part[:, left] - part[:, right]) @ centered[left, right])
            for part in torch.split(activations.T, max(1, CHUNK // len(left)))
        ]
        dependence = torch.cat(found).clamp_min(0) / (count - 1) ** 2
        return torch.where(varies(activations), dependence, 0.0)


def _gaussian(differences: Tensor) -> Tensor:
    """Return the kernel of each pair's difference (..., pairs), its width the median of those that are not 0."""
    squares = differences**2
    width = torch.where(squares > 0, squares, torch.nan).nanmedian(dim=-1, keepdim=True).values
    return torch.exp(-squares / (2 * width.nan_to_num(1.0)))
