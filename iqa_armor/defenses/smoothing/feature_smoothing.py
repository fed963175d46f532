"""Feature smoothing: one pass of the backbone, noise on its features, and only the head many times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Defended
from iqa_armor.defenses.smoothing.feature_noise import (
    FeatureCertificate,
    certificate,
    known_level,
    levels,
    noise_levels,
    noisy_scores,
)
from iqa_armor.defenses.smoothing.full_reference import BoundReferenceSmoother
from iqa_armor.defenses.smoothing.jacobian import Operator
from iqa_armor.defenses.smoothing.product_bound import ProductBound, product_bound
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.graph.trace import evaluating
from iqa_armor.models.base import QualityModel
from iqa_armor.models.reference import ReferenceModel
from iqa_armor.models.split import split_network

Mode = Literal["image", "calibrated"]
# Side of the images by which a network that takes any size is traced.
FREE_SIZE = (224, 224)


@dataclass(frozen=True)
class FeatureSmoothing:
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

    Raises:
        ValueError: If a value is out of its range.

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
        positive = (self.radius, self.multiple, self.tolerance, self.samples, self.steps, self.starts)
        if not all(0 < value < math.inf for value in positive) or not 0 < self.confidence < 1:
            raise ValueError(
                "feature smoothing needs positive radius, multiple, tolerance, samples, steps and starts, and a "
                f"confidence between 0 and 1, got {self}"
            )
        if self.mode not in get_args(Mode) or not all(0 <= value < math.inf for value in (self.sigma, self.jacobian)):
            raise ValueError(f"feature smoothing needs mode image or calibrated, sigma and jacobian >= 0, got {self}")
        if self.jacobian and self.mode == "image":
            raise ValueError("jacobian is taken with mode=calibrated only; mode=image measures it at every image")

    def bind(self, model: QualityModel) -> BoundFeatureSmoother:
        """Return this smoother of a model, which is not changed.

        Raises:
            SurgeryError: If its network cannot be split as asked.
            UsageError: If the mode is calibrated and there is no jacobian yet, or the model is a defended one.
        """
        self.require_jacobian()
        return BoundFeatureSmoother(self, model)

    def bind_reference(self, model: ReferenceModel) -> BoundReferenceSmoother:
        """Return this smoother of a full-reference model, which is not changed.

        Raises:
            UsageError: If the mode is calibrated and there is no jacobian yet, or a node is named: the two images meet
                in one place only.
        """
        self.require_jacobian()
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
        measured = replace(self, mode="image", jacobian=0.0)
        features = (model if isinstance(model, ReferenceModel) else BoundFeatureSmoother(measured, model)).features
        with evaluating(model):
            largest = _largest(measured, features, torch.split(images, batch_size) if len(images) else ())
        return replace(self, mode="calibrated", jacobian=largest)

    def require_jacobian(self) -> None:
        """Refuse the calibrated mode without a jacobian.

        Raises:
            UsageError: If it is 0.
        """
        if self.mode == "calibrated" and not self.jacobian:
            raise UsageError(
                "feature smoothing with mode=calibrated needs the largest s of clean images: take it from "
                "FeatureSmoothing.calibrate(model, images), or give jacobian=NUMBER"
            )


def _largest(settings: FeatureSmoothing, features: Operator, batches: Sequence[Tensor]) -> float:
    largest = 0.0
    for batch in batches:
        jacobian, converged = levels(settings, features, batch)
        if not bool(converged.all()):
            raise ArmorError(
                f"the Jacobian of {int((~converged).sum())} of {len(batch)} calibration images did not converge in "
                f"{settings.steps} steps; raise steps or tolerance"
            )
        largest = max(largest, float(jacobian.max()))
    if not largest:
        raise ArmorError("none of the calibration images moves the features; give images and a model that reads them")
    return largest


class BoundFeatureSmoother:
    """Feature smoothing of one model, whose layers it shares.

    Args:
        settings: How to smooth.
        model: Model whose network is split; not changed.

    Raises:
        SurgeryError: If its network cannot be split as asked.
        UsageError: If the model is a defended one.
    """

    def __init__(self, settings: FeatureSmoothing, model: QualityModel) -> None:
        if isinstance(model, Defended):
            raise UsageError(f"feature smoothing splits a network; give it the plain model instead of {model.name!r}")
        self.settings, self.model = settings, model
        size = model.preprocessing.size or FREE_SIZE
        self.backbone, self.head = split_network(
            model.network, settings.node, example=torch.zeros(1, 3, *size).to(model.mean)
        )

    def features(self, images: Tensor) -> Tensor:
        """Return what the head reads of prepared images (N, 3, H, W) in [0, 1]."""
        features: Tensor = self.backbone(self.model.normalize(images))
        return features

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        """Return estimated smoothed scores (N,) after one pass of the backbone.

        With mode "image" and no sigma the noise level follows from s, which is measured first and costs as much as it
        does for a certificate; in calibrated mode or with a sigma it is known. It is a constant to gradients.

        Args:
            images: Prepared images.
            generator: Where noise is drawn.
            samples: Number of noisy copies, instead of the smoother's own.
        """
        settings = self.settings
        with evaluating(self.model):
            sigma = known_level(settings, self.features, images)
            count = samples or settings.samples
            noisy = noisy_scores(self.head, self.features(images), sigma, samples=count, generator=generator)
        return noisy.median(dim=1).values

    @torch.no_grad()
    def certify(self, images: Tensor, generator: Generator) -> FeatureCertificate:
        """Return smoothed scores with local first-order bounds; images whose s did not converge have none."""
        settings = self.settings
        with evaluating(self.model):
            jacobian, converged = levels(settings, self.features, images)
            sigma, features = noise_levels(settings, jacobian), self.features(images)
            noisy = noisy_scores(self.head, features, sigma, samples=settings.samples, generator=generator)
        return certificate(settings, noisy, jacobian=jacobian, converged=converged)

    def global_bound(self, size: tuple[int, int] | None = None) -> ProductBound:
        """Return how far the features can at most move per unit of L2 change of images (H, W) in [0, 1], anywhere.

        Takes seconds to minutes; the size is by default that which the model prepares.
        """
        sides = size or self.model.preprocessing.size or FREE_SIZE
        found = product_bound(self.backbone, torch.zeros(1, 3, *sides).to(self.model.mean))
        if found.value is None:
            return found
        return ProductBound(found.value / min(self.model.preprocessing.std))
