"""Feature smoothing: one pass of the backbone, noise on its features, and only the head many times."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Defended
from iqa_armor.defenses.smoothing.feature_noise import FeatureCertificate, FeatureNoise
from iqa_armor.defenses.smoothing.jacobian import Operator
from iqa_armor.defenses.smoothing.product_bound import ProductBound, product_bound
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.graph.trace import evaluating
from iqa_armor.models.base import QualityModel
from iqa_armor.models.reference import ReferenceModel
from iqa_armor.models.split import split_network

FREE_SIZE = (224, 224)  # of the images by which a network that takes any size is traced


@dataclass(frozen=True)
class FeatureSmoothing(FeatureNoise):
    """Smooth a model's scores by noise on the features that its head reads; see `FeatureNoise`."""

    def bind(self, model: QualityModel) -> BoundFeatureSmoother:
        """Return this smoother of a model, which is not changed.

        Raises:
            SurgeryError: If its network cannot be split as asked.
            UsageError: If the mode is calibrated and there is no jacobian yet, or the model is a defended one.
        """
        self._require_jacobian()
        return BoundFeatureSmoother(self, model)

    def bind_reference(self, model: ReferenceModel) -> BoundReferenceSmoother:
        """Return this smoother of a full-reference model, which is not changed; a UsageError as in `bind`."""
        self._require_jacobian()
        if self.node:
            raise UsageError(f"a full-reference model is split where its two images meet; leave node={self.node} away")
        return BoundReferenceSmoother(self, model)

    def calibrate(
        self, model: QualityModel | ReferenceModel, images: Tensor, *, batch_size: int = 8
    ) -> FeatureSmoothing:
        """Return this smoother in calibrated mode, with the largest s over clean images and its margin.

        Args:
            model: The model to smooth.
            images: Prepared clean images (N, 3, H, W) in [0, 1], such as training images.
            batch_size: Images whose Jacobians are measured together.

        Raises:
            ArmorError: If s did not converge at one of the images, or is 0 at all of them.
        """
        measuring = replace(self, mode="image", jacobian=0.0)
        features = (model if isinstance(model, ReferenceModel) else BoundFeatureSmoother(measuring, model)).features
        with evaluating(model):
            batches = torch.split(images, batch_size) if len(images) else ()
            largest = max((measuring._largest(features, batch) for batch in batches), default=0.0)
        if not largest:
            raise ArmorError(
                "none of the calibration images moves the features; give images and a model that reads them"
            )
        return replace(self, mode="calibrated", jacobian=largest)

    def _require_jacobian(self) -> None:
        if self.mode == "calibrated" and not self.jacobian:
            raise UsageError(
                "feature smoothing with mode=calibrated needs the largest s of clean images: take it from "
                "FeatureSmoothing.calibrate(model, images), or give jacobian=NUMBER"
            )

    def _largest(self, features: Operator, images: Tensor) -> float:
        jacobian, converged = self.measured(features, images)
        if not bool(converged.all()):
            raise ArmorError(
                f"the Jacobian of {int((~converged).sum())} of {len(images)} calibration images did not converge in "
                f"{self.steps} steps; raise steps or tolerance"
            )
        return float(jacobian.max())


class BoundFeatureSmoother:
    """Feature smoothing of one model, whose layers it shares."""

    def __init__(self, settings: FeatureSmoothing, model: QualityModel) -> None:
        if isinstance(model, Defended):
            raise UsageError(f"feature smoothing splits a network; give it the plain model instead of {model.name!r}")
        self.settings, self.model = settings, model
        size = model.preprocessing.size or FREE_SIZE
        example = torch.zeros(1, 3, *size).to(model.mean)
        self.backbone, self.head = split_network(model.network, settings.node, example=example)

    def features(self, images: Tensor) -> Tensor:
        """Return what the head reads of prepared images (N, 3, H, W) in [0, 1]."""
        return torch.as_tensor(self.backbone(self.model.normalize(images)))

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        """Return estimated smoothed scores (N,) after one pass of the backbone.

        With mode "image" and no sigma the noise level follows from s, which is measured first and costs as much as it
        does for a certificate; in calibrated mode or with a sigma it is known.
        """
        with evaluating(self.model):
            return self.settings.scores(self.features, self.head, images, generator, samples)

    @torch.no_grad()
    def certify(self, images: Tensor, generator: Generator) -> FeatureCertificate:
        """Return smoothed scores with local first-order bounds; images whose s did not converge have none."""
        with evaluating(self.model):
            return self.settings.certify(self.features, self.head, images, generator)

    def global_bound(self, size: tuple[int, int] | None = None) -> ProductBound:
        """Return how far the features can at most move per unit of L2 change of images (H, W) in [0, 1], anywhere.

        Takes seconds to minutes; the size is by default that which the model prepares.
        """
        sides = size or self.model.preprocessing.size or FREE_SIZE
        found = product_bound(self.backbone, torch.zeros(1, 3, *sides).to(self.model.mean))
        return found if found.value is None else ProductBound(found.value / min(self.model.preprocessing.std))


class BoundReferenceSmoother:
    """Feature smoothing of one full-reference model, which is not changed.

    The reference is taken as it is: it is not attacked, its features carry no noise, and bounds hold for changes of the
    distorted image alone.
    """

    def __init__(self, settings: FeatureSmoothing, model: ReferenceModel) -> None:
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
        return lambda noisy: self.model.compare(fixed.repeat_interleave(len(noisy) // len(fixed), dim=0), noisy)
