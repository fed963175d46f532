"""Noise on features: how much of it, the scores under it, and what they certify; for any backbone and head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Certificate
from iqa_armor.defenses.smoothing.bounds import median_bounds
from iqa_armor.defenses.smoothing.jacobian import MARGIN, Operator, largest_singular_value
from iqa_armor.limits import check_limits

Mode = Literal["image", "calibrated"]
CHUNK = 2**22  # noisy features held at once


@dataclass(frozen=True)
class FeatureCertificate(Certificate):
    """A certificate with what it rests on.

    Args:
        jacobian: Largest singular value s of the backbone's Jacobian, with its margin (N,).
        sigma: Noise level of the features σ_z (N,).
        converged: Whether s could be relied upon (N,); where not, there are no bounds.
        radius: L2 radius r of the local certificate, images being in [0, 1].
    """

    jacobian: Tensor
    sigma: Tensor
    converged: Tensor
    radius: float

    def global_radius(self, lipschitz: float) -> Tensor:
        """Return the L2 radius (N,) in which the same bounds hold exactly, by a Lipschitz bound of the backbone."""
        return self.radius * self.jacobian / lipschitz


@dataclass(frozen=True)
class FeatureNoise:
    """Smooth a model's scores by the median over Gaussian noise on the features that its head reads.

    A change δ of the image with ‖δ‖₂ ≤ r moves the features by s·r at most to first order, s being the largest
    singular value of the backbone's Jacobian there, so the bounds are those of median smoothing at Φ(±s·r/σ_z). They
    are *local, first-order*: no global guarantee, and for the smoothed score whose σ_z is the one used here. The
    global product bound stands beside them.

    Args:
        samples: Number n of noisy copies of the features.
        radius: L2 radius r, images being in [0, 1].
        confidence: 1 − α, probability that both bounds of an image hold.
        multiple: σ_z in units of s·r; without effect where sigma is given. The default is the σ/r of the field's
            input smoothing, 0.12 / 0.05.
        sigma: σ_z itself, in the features' unit; 0 derives it from s.
        node: Tensor to split at, by default what the head reads.
        mode: "image" measures s at every image; "calibrated" takes `jacobian` for all of them.
        jacobian: s in calibrated mode, from `calibrate`; other images may exceed it.
        tolerance: Relative change at which the measurement of s stops; 1 % is added to what it gives.
        steps: Most products with the Jacobian and its transpose per start; an image that needs more is not certified.
        starts: Independent starts that must agree.

    Source: Shumitskaya et al., "FS-IQA: Certified Feature Smoothing for Robust IQA", arXiv:2508.05516; median bounds
    of Chiang et al., NeurIPS 2020. (ours) the 1 % margin, the multiple, calibration, and the convergence check.
    """

    guarantee: ClassVar[str] = "local, first-order"

    samples: int = 1000
    radius: float = 0.05
    confidence: float = 0.999
    multiple: float = 2.4
    sigma: float = 0.0
    node: str = ""
    mode: Mode = "image"
    jacobian: float = 0.0
    tolerance: float = 1e-3
    steps: int = 100
    starts: int = 2

    def __post_init__(self) -> None:
        check_limits(self, samples="[1, inf)", radius="(0, inf)", confidence="(0, 1)", multiple="(0, inf)")
        check_limits(self, sigma="[0, inf)", mode=get_args(Mode), jacobian="[0, inf)")
        check_limits(self, tolerance="(0, inf)", steps="[1, inf)", starts="[1, inf)")
        if self.jacobian and self.mode == "image":
            raise ValueError("jacobian is taken with mode=calibrated only; mode=image measures it at every image")

    def scores(
        self, features: Operator, head: Operator, images: Tensor, generator: Generator, samples: int | None
    ) -> Tensor:
        """Return smoothed scores (N,) after one pass of the backbone; the noise level is a constant to gradients.

        Args:
            features: Maps images (N, 3, H, W) to what the head reads.
            head: Maps noisy features (N · k, …), the k copies of an image in a row, to scores (N · k,).
            images: Prepared images, in [0, 1].
            generator: Where noise is drawn, on the images' device.
            samples: Number of noisy copies; None for the settings' own.
        """
        known = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        sigma = self.noise_levels(known if self.sigma else self.measured(features, images)[0])
        noisy = noisy_scores(head, features(images), sigma, samples=samples or self.samples, generator=generator)
        return noisy.median(dim=1).values

    @torch.no_grad()
    def certify(self, features: Operator, head: Operator, images: Tensor, generator: Generator) -> FeatureCertificate:
        """Return smoothed scores with bounds, but for images whose s did not converge; arguments as in `scores`."""
        jacobian, converged = self.measured(features, images)
        sigma = self.noise_levels(jacobian)
        scores = noisy_scores(head, features(images), sigma, samples=self.samples, generator=generator)
        ordered = scores.sort(dim=1).values
        # With σ_z a multiple of s·r the shift is the same for every image, even one without gradient.
        shifts = (jacobian * self.radius / sigma).tolist() if self.sigma else [1 / self.multiple] * len(scores)
        lower, upper = torch.full_like(ordered[:, 0], -math.inf), torch.full_like(ordered[:, 0], math.inf)
        for index in (converged & ~scores.isnan().any(dim=1)).nonzero().flatten().tolist():
            lower[index], upper[index] = median_bounds(ordered[index], shift=shifts[index], confidence=self.confidence)
        median = ordered.median(dim=1).values
        return FeatureCertificate(median, lower, upper, jacobian, sigma, converged, self.radius)

    @torch.no_grad()
    def measured(self, features: Operator, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return s with its margin at every image, and whether it can be relied upon, (N,) each."""
        if self.mode == "calibrated":
            known = torch.full((len(images),), self.jacobian, dtype=torch.float64, device=images.device)
            return known, torch.ones_like(known, dtype=torch.bool)
        found = largest_singular_value(features, images, tolerance=self.tolerance, steps=self.steps, starts=self.starts)
        return found.values * MARGIN, found.converged

    def noise_levels(self, jacobian: Tensor) -> Tensor:
        """Return σ_z (N,) of every image whose s (N,) is known."""
        return torch.full_like(jacobian, self.sigma) if self.sigma else self.multiple * self.radius * jacobian


def noisy_scores(head: Operator, features: Tensor, sigma: Tensor, *, samples: int, generator: Generator) -> Tensor:
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
