"""Smoothing by noise on the image, and what bounds it gives: median (MS, DMS) and mean (RS, DRS)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import Certificate, Defended, Purifier, read_purifier
from iqa_armor.errors import ModelLoadError
from iqa_armor.gradients import straight_through
from iqa_armor.limits import Count, Limited, NotNegative, Positive
from iqa_armor.models.base import QualityModel, ScoreScale


@lru_cache(maxsize=256)
def median_ranks(samples: int, shift: float, confidence: float) -> tuple[int, int]:
    """Return which sorted scores s₁ ≤ … ≤ sₙ bound the smoothed score under a shift of the noise.

    The ranks count from 1: the largest k with P(Bin(n, Φ(−shift)) ≤ k − 1) ≤ α/2, 0 where there is none; the smallest
    k with P(Bin(n, Φ(shift)) ≤ k − 1) ≥ 1 − α/2, n + 1 where there is none. The shift is in units of the noise's
    standard deviation, not negative; the confidence 1 − α, in (0, 1), is the probability that both bounds hold.

    Source: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing", NeurIPS 2020,
    arXiv:2007.03730, Lemma 1 and Section 3; α is shared evenly between the bounds.
    """
    import numpy as np
    from scipy.special import ndtr
    from scipy.stats import binom

    if samples < 1 or not 0 <= shift < math.inf or not 0 < confidence < 1:
        needed = "samples >= 1, shift >= 0 and 0 < confidence < 1 are needed"
        raise ValueError(f"{needed}, got {samples}, {shift}, {confidence}")
    below = binom.cdf(np.arange(samples), samples, ndtr(-shift))
    # Φ(shift) = 1 − Φ(−shift), so the upper bound's rank mirrors the lower one's.
    low = int((below <= (1 - confidence) / 2).sum())
    return low, samples + 1 - low


def median_bounds(ordered: Tensor, *, shift: float, confidence: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (...) of the median of f(x + δ + σz) for every ‖δ‖₂ ≤ shift · σ.

    `ordered` are ascending scores of n noisy copies f(x + σz), (..., n), in any unit. Both hold together with
    probability `confidence` over the samples; −inf and inf where these are too few. They bound the true median, not an
    empirical one; where medians fill an interval, its upper end from below, its lower end from above. Source:
    `median_ranks`.
    """
    low, high = median_ranks(ordered.shape[-1], shift, confidence)
    missing = torch.full_like(ordered[..., 0], math.inf)
    return (ordered[..., low - 1], ordered[..., high - 1]) if low else (-missing, missing)


def mean_bounds(values: Tensor, *, shift: float, confidence: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (...) of the mean of g(x + δ + σz) for every ‖δ‖₂ ≤ shift · σ, float64.

    Hoeffding's limits of the mean at α/2 each are g∓ = mean ∓ √(ln(2/α) / 2n), limited to [0, 1]; the bounds are
    Φ(Φ⁻¹(g₋) − shift) and Φ(Φ⁻¹(g₊) + shift). They always exist; with few samples they are 0 and 1, which say nothing.
    Values g of n noisy copies, (..., n), lie in [0, 1]; the confidence is 1 − α.

    Source: Lemma 2 of Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers",
    NeurIPS 2019, arXiv:1906.04584 (Φ⁻¹ of a smoothed [0, 1] function is 1/σ-Lipschitz); Hoeffding, JASA 1963.
    """
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"mean bounds take values in [0, 1], got {float(values.min())} to {float(values.max())}")
    reach, mean = math.sqrt(math.log(2 / (1 - confidence)) / (2 * values.shape[-1])), values.double().mean(-1)
    lower = torch.special.ndtr(torch.special.ndtri((mean - reach).clamp(0, 1)) - shift)
    return lower, torch.special.ndtr(torch.special.ndtri((mean + reach).clamp(0, 1)) + shift)


@dataclass(frozen=True)
class InputSmoothing(Limited, ABC):
    """What both ways of smoothing by noise on the image share.

    What is certified is f(x + σz), noisy pixels outside [0, 1] as they are. With `clamp` f itself begins by cutting
    them off, which is another function with a certificate as valid (ours); always where it begins with a defense.
    """

    guarantee: ClassVar[str] = "global"

    samples: Count = 1000  # number of noisy copies
    sigma: Positive = 0.12  # standard deviation of the noise, pixels being in [0, 1]
    radius: NotNegative = 0.05  # L2 radius of the certificate, in the same units
    confidence: Annotated[float, "(0, 1)"] = 0.999  # probability with which both bounds of an image hold together
    batch_size: Count = 16  # noisy copies in a forward pass; bounds memory, changes scores by rounding only
    clamp: bool = False  # whether noisy images are cut to [0, 1] before anything else sees them
    denoiser: str | Purifier = ""  # purifier in front of the model, or the word of one; empty for none

    def bind(self, model: QualityModel) -> BoundInputSmoother:
        """Return this smoother of a model, which is not changed; a denoiser's word is read by `read_purifier`."""
        given = self.denoiser or None
        denoiser = read_purifier(given) if isinstance(given, str) else given
        if isinstance(denoiser, nn.Module):
            denoiser.to(model.mean.device)
        return BoundInputSmoother(self, model, denoiser)

    @abstractmethod
    def _estimate(self, scores: Tensor, model: QualityModel) -> Tensor:
        """Return smoothed scores (N,) of the scores of noisy copies (N, n), differentiably."""

    @abstractmethod
    def _certificate(self, scores: Tensor, model: QualityModel) -> Certificate:
        """Return smoothed scores with bounds of the scores of noisy copies (N, n), float64."""


@dataclass(frozen=True)
class MedianSmoothing(InputSmoothing):
    """Median of the scores of noisy copies (MS), with a denoiser in front DMS; arguments as in `InputSmoothing`.

    The mean of both middle scores where their number is even, and so is its gradient. It abstains where there are too
    few samples for the confidence. Source: Chiang et al., NeurIPS 2020, arXiv:2007.03730; denoiser: its Section 4.
    """

    def _estimate(self, scores: Tensor, model: QualityModel) -> Tensor:  # noqa: ARG002
        ordered, count = scores.sort(-1).values, scores.shape[-1]
        return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2

    def _certificate(self, scores: Tensor, model: QualityModel) -> Certificate:
        bounds = median_bounds(scores.sort(-1).values, shift=self.radius / self.sigma, confidence=self.confidence)
        return Certificate(self._estimate(scores, model), *bounds)


@dataclass(frozen=True)
class MeanSmoothing(InputSmoothing):
    """Mean of the clipped scores of noisy copies (RS), with a denoiser in front DRS; arguments as in `InputSmoothing`.

    Scores are counted from 0 to 1 over the model's score range and clipped there, so what is certified is the mean of
    the clipped score, given in model units again. It never abstains: bounds that say nothing are the ends of the
    range. Clipping is differentiated as the identity (ours), lest scores outside the range hide their gradient.

    Source: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, arXiv:1902.02918, as a
    regression: Salman et al., NeurIPS 2019, arXiv:1906.04584; denoiser: Salman et al., NeurIPS 2020, arXiv:2003.01908.
    """

    def bind(self, model: QualityModel) -> BoundInputSmoother:
        """Return this smoother of a model; a ModelLoadError refuses one without a score range."""
        _scale_of(model)
        return super().bind(model)

    def _estimate(self, scores: Tensor, model: QualityModel) -> Tensor:
        scale = _scale_of(model)
        return straight_through(lambda given: given.clamp(scale.low, scale.high))(scores).mean(-1)

    def _certificate(self, scores: Tensor, model: QualityModel) -> Certificate:
        scale = _scale_of(model)
        values = ((scores - scale.low) / scale.width).clamp(0, 1)
        bounds = mean_bounds(values, shift=self.radius / self.sigma, confidence=self.confidence)
        return Certificate(*(scale.low + scale.width * part for part in (values.mean(-1), *bounds)))


@dataclass(frozen=True)
class BoundInputSmoother:
    """Smoothing of one model by noise on its images, with a denoiser in front of it or None."""

    smoothing: InputSmoothing
    model: QualityModel
    denoiser: Purifier | None = None

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        noisy = self.noisy_scores(images, generator, samples=samples or self.smoothing.samples)
        return self.smoothing._estimate(noisy, self.model)

    @torch.no_grad()
    def certify(self, images: Tensor, generator: Generator) -> Certificate:
        noisy = self.noisy_scores(images, generator, samples=self.smoothing.samples)
        return self.smoothing._certificate(noisy.double(), self.model)

    def noisy_scores(self, images: Tensor, generator: Generator, *, samples: int) -> Tensor:
        """Return scores (N, samples) of noisy copies of images (N, 3, H, W) in [0, 1], in the order of the draws.

        Noise is drawn copy by copy, image by image: unless the model or the denoiser draws as well, the first copies
        of an image are the same however many there are, and so is noise whatever the `batch_size`, and for images
        scored together or one after another. A ModelLoadError refuses scores that are not finite.
        """
        if samples < 1 or not len(images):
            raise ValueError(f"noisy scores need images and samples >= 1, got {len(images)} and {samples}")
        scores = torch.stack([torch.cat(list(self._of_one(image, generator, samples))) for image in images])
        if not bool(scores.isfinite().all()):
            told = f"{self.model.name} gives noisy images scores that are not finite"
            raise ModelLoadError(f"{told}; check its weights, or smooth with a smaller sigma")
        return scores

    def _of_one(self, image: Tensor, generator: Generator, samples: int) -> Iterator[Tensor]:
        at_once, clamps = self.smoothing.batch_size, self.smoothing.clamp or isinstance(self.model, Defended)
        for start in range(0, samples, at_once):
            shape = (min(at_once, samples - start), *image.shape)
            noise = torch.empty(shape, dtype=image.dtype, device=generator.device)
            for copy in noise:
                copy.normal_(generator=generator)
            noisy = image + self.smoothing.sigma * noise.to(image.device)
            if clamps:
                noisy = noisy.clamp(0, 1)
            yield self.model(noisy if self.denoiser is None else self.denoiser(noisy, generator))


def _scale_of(model: QualityModel) -> ScoreScale:
    if model.scale is None:
        unknown = f"mean smoothing clips scores to the range of {model.name}, which is not known"
        raise ModelLoadError(f"{unknown}; give it with --score-range LOW,HIGH, or use median smoothing (ms)")
    return model.scale
