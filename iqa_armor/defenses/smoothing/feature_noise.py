"""Scores under noise on features, and what they certify, for models that are split into a backbone and a head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import Certificate, Defended
from iqa_armor.defenses.smoothing.bounds import median_bounds
from iqa_armor.defenses.smoothing.jacobian import Operator
from iqa_armor.defenses.smoothing.product_bound import ProductBound, product_bound
from iqa_armor.errors import UsageError
from iqa_armor.graph.trace import evaluating
from iqa_armor.models.base import QualityModel
from iqa_armor.models.reference import ReferenceModel
from iqa_armor.models.split import split_network

if TYPE_CHECKING:
    from iqa_armor.defenses.smoothing.feature_smoothing import FeatureSmoothing

CHUNK = 2**22  # noisy features held at once
FREE_SIZE = (224, 224)  # of the images by which a network that takes any size is traced


@dataclass(frozen=True)
class FeatureCertificate(Certificate):
    """A certificate with what it rests on."""

    jacobian: Tensor  # largest singular value s of the backbone's Jacobian (N,), with its margin
    sigma: Tensor  # noise level of the features σ_z (N,)
    converged: Tensor  # whether s could be relied upon (N,); where not, there are no bounds
    radius: float  # L2 radius r of the local certificate, images being in [0, 1]

    def global_radius(self, lipschitz: float) -> Tensor:
        """Return the L2 radius (N,) in which the same bounds hold exactly, by a Lipschitz bound of the backbone."""
        return self.radius * self.jacobian / lipschitz


class SplitSmoother:
    """Feature smoothing of a model, whose layers it shares.

    Features are mapped from prepared images (N, 3, H, W) in [0, 1]; the head maps noisy ones (N · k, …), the k copies
    of an image in a row, to scores (N · k,).
    """

    def __init__(self, settings: FeatureSmoothing, model: nn.Module, features: Operator, head: Operator) -> None:
        self.settings, self.model, self.features, self.head = settings, model, features, head

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        """Return estimated smoothed scores (N,) after one pass of the backbone.

        The noise level is a constant to gradients. With mode "image" and no sigma it follows from s, which is measured
        first and costs as much as it does for a certificate.
        """
        settings = self.settings
        with evaluating(self.model):
            known = torch.zeros(len(images), dtype=torch.float64, device=images.device)
            sigma = settings.noise_levels(known if settings.sigma else settings.measured(self.features, images)[0])
            noisy = self.noisy_scores(self.features(images), sigma, generator, samples=samples or settings.samples)
        return noisy.median(dim=1).values

    @torch.no_grad()
    def certify(self, images: Tensor, generator: Generator) -> FeatureCertificate:
        """Return smoothed scores with local first-order bounds; images whose s did not converge have none."""
        settings = self.settings
        with evaluating(self.model):
            jacobian, converged = settings.measured(self.features, images)
            sigma = settings.noise_levels(jacobian)
            scores = self.noisy_scores(self.features(images), sigma, generator, samples=settings.samples)
        ordered, confidence = scores.sort(dim=1).values, settings.confidence
        # With σ_z a multiple of s·r the shift is the same for every image, even one without gradient.
        given = (jacobian * settings.radius / sigma).tolist()
        shifts = given if settings.sigma else [1 / settings.multiple] * len(scores)
        lower, upper = torch.full_like(ordered[:, 0], -math.inf), torch.full_like(ordered[:, 0], math.inf)
        for index in (converged & ~scores.isnan().any(dim=1)).nonzero().flatten().tolist():
            lower[index], upper[index] = median_bounds(ordered[index], shift=shifts[index], confidence=confidence)
        median = ordered.median(dim=1).values
        return FeatureCertificate(median, lower, upper, jacobian, sigma, converged, settings.radius)

    def noisy_scores(self, features: Tensor, sigma: Tensor, generator: Generator, *, samples: int) -> Tensor:
        """Return scores (N, samples) of features (N, …) under independent noise of level sigma (N,) in their unit."""
        at_once = max(1, CHUNK // max(1, features.numel()))
        scale = sigma.to(features).view(-1, *[1] * features.ndim)
        parts = []
        for start in range(0, samples, at_once):
            shape = (len(features), min(at_once, samples - start), *features.shape[1:])
            noise = torch.randn(shape, generator=generator, device=features.device, dtype=features.dtype)
            noisy = torch.addcmul(features[:, None], noise, scale)
            parts.append(self.head(noisy.flatten(0, 1)).reshape(shape[:2]))
        return torch.cat(parts, dim=1)


class BoundFeatureSmoother(SplitSmoother):
    """Feature smoothing of one model, split into a backbone and a head."""

    model: QualityModel

    def __init__(self, settings: FeatureSmoothing, model: QualityModel) -> None:
        if isinstance(model, Defended):
            raise UsageError(f"feature smoothing splits a network; give it the plain model instead of {model.name!r}")
        example = torch.zeros(1, 3, *(model.preprocessing.size or FREE_SIZE)).to(model.mean)
        self.backbone, head = split_network(model.network, settings.node, example=example)
        super().__init__(settings, model, self._of, head)

    def _of(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.backbone(self.model.normalize(images)))

    def global_bound(self, size: tuple[int, int] | None = None) -> ProductBound:
        """Return how far features can move per unit of L2 change of images (H, W) in [0, 1]; takes up to minutes."""
        sides = size or self.model.preprocessing.size or FREE_SIZE
        found = product_bound(self.backbone, torch.zeros(1, 3, *sides).to(self.model.mean))
        return found if found.value is None else ProductBound(found.value / min(self.model.preprocessing.std))


class BoundReferenceSmoother:
    """Feature smoothing of one full-reference model, for prepared images (N, 3, H, W) beside their references.

    The reference is taken as it is: it is not attacked, its features carry no noise, and bounds hold for changes of the
    distorted image alone.
    """

    def __init__(self, settings: FeatureSmoothing, model: ReferenceModel) -> None:
        self.settings, self.model = settings, model

    def scores(
        self, reference: Tensor, distorted: Tensor, generator: Generator, *, samples: int | None = None
    ) -> Tensor:
        """Return estimated smoothed scores (N,)."""
        return self._beside(reference).scores(distorted, generator, samples=samples)

    @torch.no_grad()
    def certify(self, reference: Tensor, distorted: Tensor, generator: Generator) -> FeatureCertificate:
        """Return smoothed scores with local first-order bounds; images whose s did not converge have none."""
        return self._beside(reference).certify(distorted, generator)

    def _beside(self, reference: Tensor) -> SplitSmoother:
        model = self.model
        with evaluating(model):
            fixed = model.features(reference)

        def head(noisy: Tensor) -> Tensor:
            return model.compare(fixed.repeat_interleave(len(noisy) // len(fixed), dim=0), noisy)

        return SplitSmoother(self.settings, model, model.features, head)
