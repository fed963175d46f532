"""Noise levels, noisy scores and what they certify, for any head on any features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Certificate
from iqa_armor.defenses.smoothing.jacobian import MARGIN, Operator, largest_singular_value
from iqa_armor.defenses.smoothing.ranks import median_indices

if TYPE_CHECKING:
    from iqa_armor.defenses.smoothing.feature_smoothing import FeatureSmoothing

# Noisy features held at once.
CHUNK = 2**22


@dataclass(frozen=True)
class FeatureCertificate(Certificate):
    """A certificate with what it rests on.

    Args:
        jacobian: Largest singular value s of the backbone's Jacobian, with its margin (N,).
        sigma: Noise level of the features σ_z (N,).
        converged: Whether s could be relied upon (N,); where not, there are no bounds.
        radius: L2 radius r of the local certificate, images being in [0, 1].
    """

    guarantee: ClassVar[str] = "local, first-order"

    jacobian: Tensor
    sigma: Tensor
    converged: Tensor
    radius: float

    def global_radius(self, lipschitz: float) -> Tensor:
        """Return the L2 radius (N,) in which the same bounds hold without approximation.

        Args:
            lipschitz: A global Lipschitz bound of the backbone, such as the product bound.
        """
        return self.radius * self.jacobian / lipschitz


@torch.no_grad()
def levels(settings: FeatureSmoothing, features: Operator, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return s with its margin at every image, and whether it can be relied upon, (N,) each."""
    if settings.mode == "calibrated":
        known = torch.full((len(images),), settings.jacobian, dtype=torch.float64, device=images.device)
        return known, torch.ones_like(known, dtype=torch.bool)
    found = largest_singular_value(
        features, images, tolerance=settings.tolerance, steps=settings.steps, starts=settings.starts
    )
    return found.values * MARGIN, found.converged


def noise_levels(settings: FeatureSmoothing, jacobian: Tensor) -> Tensor:
    """Return σ_z (N,) of every image whose s (N,) is known."""
    if settings.sigma:
        return torch.full_like(jacobian, settings.sigma)
    return settings.multiple * settings.radius * jacobian


def known_level(settings: FeatureSmoothing, features: Operator, images: Tensor) -> Tensor:
    """Return σ_z (N,) of every image, measuring s only where σ_z depends on it."""
    if settings.sigma:
        return torch.full((len(images),), settings.sigma, dtype=torch.float64, device=images.device)
    return noise_levels(settings, levels(settings, features, images)[0])


def noisy_scores(
    head: Callable[[Tensor], Tensor], features: Tensor, sigma: Tensor, *, samples: int, generator: Generator
) -> Tensor:
    """Return the scores (N, samples) of features (N, …) under independent noise of level sigma (N,).

    Args:
        head: Maps noisy features (N · k, …), the k copies of an image in a row, to (N · k,).
        features: One per image; gradients flow.
        sigma: Noise level per image, in the features' unit.
        samples: Copies per image.
        generator: Where noise is drawn, on the features' device.
    """
    at_once = max(1, CHUNK // max(1, features.numel()))
    scale = sigma.to(features).view(-1, *[1] * features.ndim)
    parts = []
    for start in range(0, samples, at_once):
        shape = (len(features), min(at_once, samples - start), *features.shape[1:])
        noise = torch.randn(shape, generator=generator, device=features.device, dtype=features.dtype)
        noisy = torch.addcmul(features[:, None], noise, scale)
        parts.append(head(noisy.flatten(0, 1)).reshape(shape[:2]))
    return torch.cat(parts, dim=1)


def certificate(
    settings: FeatureSmoothing, scores: Tensor, *, jacobian: Tensor, converged: Tensor
) -> FeatureCertificate:
    """Return what noisy scores (N, n) certify where s (N,) is known and every score is a number."""
    ordered = scores.sort(dim=1).values
    sigma = noise_levels(settings, jacobian)
    # With σ_z a multiple of s·r the shift is the same for every image, even one without gradient.
    shifts = (jacobian * settings.radius / sigma).tolist() if settings.sigma else [1 / settings.multiple] * len(scores)
    lower, upper = torch.full_like(ordered[:, 0], -math.inf), torch.full_like(ordered[:, 0], math.inf)
    for index in (converged & ~scores.isnan().any(dim=1)).nonzero().flatten().tolist():
        low, high = median_indices(settings.samples, shifts[index], settings.confidence)
        if low >= 1:
            lower[index], upper[index] = ordered[index, low - 1], ordered[index, high - 1]
    median = ordered.median(dim=1).values
    return FeatureCertificate(median, lower, upper, jacobian, sigma, converged, settings.radius)
