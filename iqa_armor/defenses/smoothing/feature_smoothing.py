"""Feature smoothing: one pass of the backbone, noise on its features, and only the head many times."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import Certificate, Defended
from iqa_armor.defenses.smoothing.input_smoothing import median_bounds
from iqa_armor.defenses.smoothing.product_bound import ProductBound, product_bound
from iqa_armor.errors import ArmorError, UsageError
from iqa_armor.graph.trace import evaluating
from iqa_armor.limits import Count, Limited, NotNegative, Positive
from iqa_armor.models.base import QualityModel
from iqa_armor.models.reference import ReferenceModel
from iqa_armor.models.split import split_network
from iqa_armor.ortho.lanczos import Operator, largest_singular_value

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


@dataclass(frozen=True)
class SplitSmoother:
    """Feature smoothing of a model, whose layers it shares."""

    settings: FeatureSmoothing
    model: nn.Module
    features: Operator  # from prepared images (N, 3, H, W) in [0, 1]
    head: Operator  # from noisy features (N · k, …), the k copies of an image in a row, to scores (N · k,)

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        """Return estimated smoothed scores (N,); the noise level, for which s is measured, is constant to gradients."""
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
        lower, upper = (torch.full_like(ordered[:, 0], end) for end in (-math.inf, math.inf))
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
            noisy = torch.addcmul(features[:, None], noise, scale).flatten(0, 1)
            parts.append(self.head(noisy).reshape(shape[:2]))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class BoundFeatureSmoother(SplitSmoother):
    """Feature smoothing of one model, split into a backbone and a head."""

    model: QualityModel
    backbone: nn.Module

    def global_bound(self, size: tuple[int, int] | None = None) -> ProductBound:
        """Return how far features can move per unit of L2 change of images (H, W) in [0, 1]; takes up to minutes."""
        sides = size or self.model.preprocessing.size or FREE_SIZE
        found = product_bound(self.backbone, torch.zeros(1, 3, *sides).to(self.model.mean))
        return found if found.value is None else ProductBound(found.value / min(self.model.preprocessing.std))


@dataclass(frozen=True)
class BoundReferenceSmoother:
    """Feature smoothing beside references, which carry no noise; bounds hold for changes of the distorted image."""

    settings: FeatureSmoothing
    model: ReferenceModel

    def scores(
        self, reference: Tensor, distorted: Tensor, generator: Generator, *, samples: int | None = None
    ) -> Tensor:
        return self._beside(reference).scores(distorted, generator, samples=samples)

    @torch.no_grad()
    def certify(self, reference: Tensor, distorted: Tensor, generator: Generator) -> FeatureCertificate:
        return self._beside(reference).certify(distorted, generator)

    def _beside(self, reference: Tensor) -> SplitSmoother:
        with evaluating(self.model):
            fixed = self.model.features(reference)

        def head(noisy: Tensor) -> Tensor:
            return self.model.compare(fixed.repeat_interleave(len(noisy) // len(fixed), dim=0), noisy)

        return SplitSmoother(self.settings, self.model, self.model.features, head)


@dataclass(frozen=True)
class FeatureSmoothing(Limited):
    """Smooth a model's scores by the median over Gaussian noise on the features that its head reads.

    A change δ of the image with ‖δ‖₂ ≤ r moves the features by s·r at most to first order, s being the largest
    singular value of the backbone's Jacobian there, so the bounds are those of median smoothing at Φ(±s·r/σ_z). They
    are *local, first-order*: no global guarantee, and for the smoothed score whose σ_z is the one used here.

    Source: Shumitskaya et al., "FS-IQA: Certified Feature Smoothing for Robust IQA", arXiv:2508.05516; median bounds
    of Chiang et al., NeurIPS 2020. (ours) the 1 % margin, the multiple, calibration, and the convergence check.
    """

    guarantee: ClassVar[str] = "local, first-order"

    samples: Count = 1000  # number n of noisy copies of the features
    radius: Positive = 0.05  # L2 radius r, images being in [0, 1]
    confidence: Annotated[float, "(0, 1)"] = 0.999  # 1 − α, probability that both bounds of an image hold
    # Σ_z in units of s·r where no sigma is given. The default is the σ/r of the field's input smoothing, 0.12 / 0.05.
    multiple: Positive = 2.4
    sigma: NotNegative = 0.0  # σ_z itself, in the features' unit; 0 derives it from s
    node: str = ""  # tensor to split at, by default what the head reads
    mode: Literal["image", "calibrated"] = "image"  # where s is from: measured at every image, or `jacobian` for all
    jacobian: NotNegative = 0.0  # s in calibrated mode, from `calibrate`; other images may exceed it
    tolerance: Positive = 1e-3  # relative change at which the measurement of s stops; 1 % is added to what it gives
    steps: Count = 100  # most products with the Jacobian and its transpose per start; more is not certified
    starts: Count = 2  # independent starts that must agree

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jacobian and self.mode == "image":
            raise ValueError("jacobian is taken with mode=calibrated only; mode=image measures it at every image")

    def bind(self, model: QualityModel) -> BoundFeatureSmoother:
        """Return this smoother of a model, which can be split (SurgeryError) and is not defended (UsageError)."""
        self._require_jacobian()
        if isinstance(model, Defended):
            raise UsageError(f"feature smoothing splits a network; give it the plain model instead of {model.name!r}")
        example = torch.zeros(1, 3, *(model.preprocessing.size or FREE_SIZE)).to(model.mean)
        backbone, head = split_network(model.network, self.node, example=example)
        return BoundFeatureSmoother(self, model, lambda images: backbone(model.normalize(images)), head, backbone)

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
        if failed := sum(int((~converged).sum()) for _, converged in found):
            which = f"{failed} of {len(images)} calibration images"
            told = f"the Jacobian of {which} did not converge in {self.steps} steps"
            raise ArmorError(f"{told}; raise steps or tolerance")
        largest = max((float(jacobian.max()) for jacobian, _ in found), default=0.0)
        if not largest:
            none = "none of the calibration images moves the features"
            raise ArmorError(f"{none}; give images and a model that reads them")
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
            needed = "feature smoothing with mode=calibrated needs the largest s of clean images"
            raise UsageError(
                f"{needed}: take it from FeatureSmoothing.calibrate(model, images), or give jacobian=NUMBER"
            )
