"""Partial least squares of labels on channels, and what each channel weighs in it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from iqa_armor.pruning.criteria import ReaderCriterion
from iqa_armor.pruning.samples import checked, varies

COMPONENTS = 2


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
    varying = varies(activations)
    channels = torch.where(varying, channels / channels.std(dim=0), 0.0)
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
        return LatentSpace(activations.new_zeros(0, activations.shape[1]), activations.new_zeros(0))
    return LatentSpace(torch.stack(weights), torch.stack(explained))


@dataclass(frozen=True)
class Vip(ReaderCriterion):
    """Variable importance in projection of each channel.

    VIP_j = √(C Σ_a R²_a w²_ja / Σ_a R²_a) over components a: its mean square over channels is 1 in every layer, or 0
    where no channel goes with the labels.

    Args:
        components: Most directions to find, at least 1.

    Source: Wold et al. 2001; for pruning Jordao et al., "Pruning Deep Neural Networks using Partial Least
    Squares", 2018; [RA] Section 3. Ours: opinion scores as the response, without classes.
    """

    components: int = COMPONENTS

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"components must be positive, got {self.components}")

    def score(self, activations: Tensor, labels: Tensor) -> Tensor:
        """Return importance (C,), 0 or above, of activations (n, C); errors as of `latent_space`."""
        space = latent_space(activations, labels, components=self.components)
        return _importance(space, space.explained / space.explained.sum())


@dataclass(frozen=True)
class DistilledVip(Vip):
    """`Vip` times √R², R² being the share of the labels' variance that the layer's latent space explains.

    So its mean square over the channels of a layer is that layer's R², and layers can be ranked against each other: one
    that says little about quality loses more of its channels.

    Source: named in [RA] without a formula beyond one latent space per layer; the factor √R² is ours.
    """

    across_layers = True

    def score(self, activations: Tensor, labels: Tensor) -> Tensor:
        """Return importance (C,), 0 or above, of activations (n, C); errors as of `latent_space`."""
        space = latent_space(activations, labels, components=self.components)
        return _importance(space, space.explained)


def _importance(space: LatentSpace, shares: Tensor) -> Tensor:
    return (space.weights.shape[1] * (shares @ space.weights**2)).sqrt()
