"""Feature smoothing of full-reference models: noise on the features of the distorted image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.smoothing.feature_noise import FeatureCertificate, FeatureNoise
from iqa_armor.defenses.smoothing.jacobian import Operator
from iqa_armor.graph.trace import evaluating
from iqa_armor.models.reference import ReferenceModel


class BoundReferenceSmoother:
    """Feature smoothing of one full-reference model.

    The reference is taken as it is: it is not attacked, its features carry no noise, and bounds hold for changes of the
    distorted image alone.

    Args:
        settings: How to smooth; the node must be "", since the two images meet in one place only.
        model: Model to smooth; not changed.
    """

    def __init__(self, settings: FeatureNoise, model: ReferenceModel) -> None:
        self.settings, self.model = settings, model

    def scores(
        self, reference: Tensor, distorted: Tensor, generator: Generator, *, samples: int | None = None
    ) -> Tensor:
        """Return estimated smoothed scores (N,) of prepared images (N, 3, H, W) beside their references."""
        with evaluating(self.model):
            head = self._head(reference)
            return self.settings.scores(self.model.features, head, distorted, generator, samples)

    @torch.no_grad()
    def certify(self, reference: Tensor, distorted: Tensor, generator: Generator) -> FeatureCertificate:
        """Return smoothed scores with local first-order bounds; images whose s did not converge have none."""
        with evaluating(self.model):
            return self.settings.certify(self.model.features, self._head(reference), distorted, generator)

    def _head(self, reference: Tensor) -> Operator:
        fixed = self.model.features(reference)

        def head(noisy: Tensor) -> Tensor:
            return self.model.compare(fixed.repeat_interleave(len(noisy) // len(fixed), dim=0), noisy)

        return head
