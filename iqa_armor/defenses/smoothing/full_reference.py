"""Feature smoothing of full-reference models: noise on the features of the distorted image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.smoothing.feature_noise import (
    FeatureCertificate,
    certificate,
    known_level,
    levels,
    noise_levels,
    noisy_scores,
)
from iqa_armor.graph.trace import evaluating
from iqa_armor.models.reference import ReferenceModel

if TYPE_CHECKING:
    from iqa_armor.defenses.smoothing.feature_smoothing import FeatureSmoothing


class BoundReferenceSmoother:
    """Feature smoothing of one full-reference model.

    The reference is taken as it is: it is not attacked, its features carry no noise, and bounds hold for changes of the
    distorted image alone.

    Args:
        settings: How to smooth; the node must be "", since the two images meet in one place only.
        model: Model to smooth; not changed.
    """

    def __init__(self, settings: FeatureSmoothing, model: ReferenceModel) -> None:
        self.settings, self.model = settings, model

    def scores(
        self, reference: Tensor, distorted: Tensor, generator: Generator, *, samples: int | None = None
    ) -> Tensor:
        """Return estimated smoothed scores (N,) of prepared images (N, 3, H, W) beside their references.

        What holds for the noise level and for gradients is said at `BoundFeatureSmoother.scores`.
        """
        with evaluating(self.model):
            sigma = known_level(self.settings, self.model.features, distorted)
            head, features = self._head(reference), self.model.features(distorted)
            count = samples or self.settings.samples
            noisy = noisy_scores(head, features, sigma, samples=count, generator=generator)
        return noisy.median(dim=1).values

    @torch.no_grad()
    def certify(self, reference: Tensor, distorted: Tensor, generator: Generator) -> FeatureCertificate:
        """Return smoothed scores with local first-order bounds; images whose s did not converge have none."""
        settings = self.settings
        with evaluating(self.model):
            jacobian, converged = levels(settings, self.model.features, distorted)
            sigma, features = noise_levels(settings, jacobian), self.model.features(distorted)
            head = self._head(reference)
            noisy = noisy_scores(head, features, sigma, samples=settings.samples, generator=generator)
        return certificate(settings, noisy, jacobian=jacobian, converged=converged)

    def _head(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what scores noisy features (N · k, D), the k copies of an image in a row."""
        fixed = self.model.features(reference)

        def head(noisy: Tensor) -> Tensor:
            return self.model.compare(fixed.repeat_interleave(len(noisy) // len(fixed), dim=0), noisy)

        return head
