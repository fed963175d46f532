"""What a channel says of the labels: partial least squares, and dependence of any form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from iqa_armor.limits import Count, Limited
from iqa_armor.pruning.criteria import ReaderCriterion
from iqa_armor.pruning.samples import checked, varies

COMPONENTS = 2
CHUNK = 2**22  # differences between pairs of samples that are held at once, at most


@dataclass(frozen=True)
class LatentSpace:
    """The directions among channels that go with the labels."""

    weights: Tensor  # unit vectors (A, C), one for each of at most `COMPONENTS` components
    explained: Tensor  # share (A,) of the labels' variance that each component explains, in [0, 1]


def latent_space(activations: Tensor, labels: Tensor, *, components: int = COMPONENTS) -> LatentSpace:
    """Fit labels (n,) by partial least squares on activations (n, C) with one response (PLS1, NIPALS).

    Channels are brought to mean 0 and variance 1, so the size of weights does not count; a constant channel has no
    weight. At most `components` directions come back, fewer where the labels are fitted before. Errors as of `checked`.

    Source: Wold, Sjöström and Eriksson, "PLS-regression: a basic tool of chemometrics", 2001. For one
    response the NIPALS iteration ends after one round. Two components: ours; [RA] gives no number.
    """
    activations, labels = checked(activations, labels)
    channels = activations - activations.mean(dim=0)
    channels = torch.where(varies(activations), channels / channels.std(dim=0), 0.0)
    rest = labels - labels.mean()
    total, scale = rest @ rest, channels.norm() * rest.norm()
    weights, explained = [], []
    for _ in range(components):
        weight = channels.T @ rest
        if weight.norm() <= 1e-9 * scale:
            break
        weight = weight / weight.norm()
        scores = channels @ weight
        length = scores @ scores
        loading = rest @ scores / length
        channels = channels - scores.outer(channels.T @ scores / length)
        rest = rest - loading * scores
        weights.append(weight)
        explained.append(loading**2 * length / total)
    if not weights:
        return LatentSpace(channels[:0], channels.new_zeros(0))
    return LatentSpace(torch.stack(weights), torch.stack(explained))


@dataclass(frozen=True)
class Vip(Limited, ReaderCriterion):
    """Variable importance in projection of each channel.

    VIP_j = √(C Σ_a R²_a w²_ja / Σ_a R²_a) over components a: its mean square over channels is 1 in every layer, or 0
    where no channel goes with the labels.

    Source: Wold et al. 2001; for pruning Jordao et al., "Pruning Deep Neural Networks using Partial Least
    Squares", 2018; [RA] Section 3. Ours: opinion scores as the response, without classes.
    """

    components: Count = COMPONENTS  # most directions to find

    def score(self, activations: Tensor, labels: Tensor) -> Tensor:
        space = latent_space(activations, labels, components=self.components)
        shares = space.explained if self.across_layers else space.explained / space.explained.sum()
        return (space.weights.shape[1] * (shares @ space.weights**2)).sqrt()


@dataclass(frozen=True)
class DistilledVip(Vip):
    """`Vip` times √R², R² being the share of the labels' variance that the layer's latent space explains.

    So its mean square over a layer's channels is R², and layers that say little about quality lose more of theirs.

    Source: named in [RA] without a formula beyond one latent space per layer; the factor √R² is ours.
    """

    across_layers = True


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
