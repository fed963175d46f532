"""Feature smoothing: one pass of the backbone, noise on its features, and only the head many times."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from torch import Tensor

from iqa_armor.defenses.smoothing.feature_noise import BoundFeatureSmoother, BoundReferenceSmoother
from iqa_armor.defenses.smoothing.jacobian import Operator, largest_singular_value
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.graph.trace import evaluating
from iqa_armor.limits import Count, Limited, NotNegative, Positive
from iqa_armor.models.base import QualityModel
from iqa_armor.models.reference import ReferenceModel


@dataclass(frozen=True)
class FeatureSmoothing(Limited):
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

    samples: Count = 1000
    radius: Positive = 0.05
    confidence: Annotated[float, "(0, 1)"] = 0.999
    multiple: Positive = 2.4
    sigma: NotNegative = 0.0
    node: str = ""
    mode: Literal["image", "calibrated"] = "image"
    jacobian: NotNegative = 0.0
    tolerance: Positive = 1e-3
    steps: Count = 100
    starts: Count = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jacobian and self.mode == "image":
            raise ValueError("jacobian is taken with mode=calibrated only; mode=image measures it at every image")

    def bind(self, model: QualityModel) -> BoundFeatureSmoother:
        """Return this smoother of a model, which is not changed.

        A SurgeryError refuses a network that cannot be split as asked, a UsageError a defended model, and the
        calibrated mode without a jacobian.
        """
        self._require_jacobian()
        return BoundFeatureSmoother(self, model)

    def bind_reference(self, model: ReferenceModel) -> BoundReferenceSmoother:
        """Return this smoother of a full-reference model, which is not changed; a UsageError as in `bind`."""
        self._require_jacobian()
        if self.node:
            raise UsageError(f"a full-reference model is split where its two images meet; leave node={self.node} away")
        return BoundReferenceSmoother(self, model)

    def calibrate(self, model: QualityModel | ReferenceModel, images: Tensor, *, batch_size: int = 8) -> Self:
        """Return this smoother in calibrated mode, with the largest s over clean images and its margin.

        Images are prepared ones (N, 3, H, W) in [0, 1], such as training images; `batch_size` of their Jacobians are
        measured together. An ArmorError says that s did not converge at one of them, or is 0 at all.
        """
        measuring = replace(self, mode="image", jacobian=0.0)
        features = model.features if isinstance(model, ReferenceModel) else measuring.bind(model).features
        with evaluating(model):
            batches = torch.split(images, batch_size) if len(images) else ()
            found = [measuring.measured(features, batch) for batch in batches]
        failed = sum(int((~converged).sum()) for _, converged in found)
        if failed:
            raise ArmorError(
                f"the Jacobian of {failed} of {len(images)} calibration images did not converge in {self.steps} steps; "
                "raise steps or tolerance"
            )
        largest = max((float(jacobian.max()) for jacobian, _ in found), default=0.0)
        if not largest:
            raise ArmorError(
                "none of the calibration images moves the features; give images and a model that reads them"
            )
        return replace(self, mode="calibrated", jacobian=largest)

    @torch.no_grad()
    def measured(self, features: Operator, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return s with its margin at every image, and whether it can be relied upon, (N,) each."""
        if self.mode == "calibrated":
            known = torch.full((len(images),), self.jacobian, dtype=torch.float64, device=images.device)
            return known, torch.ones_like(known, dtype=torch.bool)
        found = largest_singular_value(features, images, tolerance=self.tolerance, steps=self.steps, starts=self.starts)
        return found.values * 1.01, found.converged  # values are found from below

    def noise_levels(self, jacobian: Tensor) -> Tensor:
        """Return σ_z (N,) of every image whose s (N,) is known."""
        return torch.full_like(jacobian, self.sigma) if self.sigma else self.multiple * self.radius * jacobian

    def _require_jacobian(self) -> None:
        if self.mode == "calibrated" and not self.jacobian:
            raise UsageError(
                "feature smoothing with mode=calibrated needs the largest s of clean images: take it from "
                "FeatureSmoothing.calibrate(model, images), or give jacobian=NUMBER"
            )
