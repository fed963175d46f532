"""Smoothing by noise on the image: median (MS, DMS) and mean (RS, DRS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import Certificate, Defended, Purifier
from iqa_armor.defenses.purifiers.chain import read_purifier
from iqa_armor.defenses.smoothing.bounds import check_smoothing, mean_bounds, median_bounds
from iqa_armor.defenses.smoothing.noisy_images import NoisyScores
from iqa_armor.errors import ModelLoadError
from iqa_armor.gradients import straight_through
from iqa_armor.models.base import QualityModel, ScoreScale


@dataclass(frozen=True)
class InputSmoothing:
    """What both ways of smoothing by noise on the image share.

    What is certified is f(x + σz): by default the model sees noisy pixels outside [0, 1] as they are. With `clamp`
    f itself begins by cutting them off, which is another function with a certificate as valid (ours). It is always
    done where f begins with a defense of its own, since purifiers take images in [0, 1].

    Args:
        samples: Number of noisy copies.
        sigma: Standard deviation of the noise, pixels being in [0, 1].
        radius: L2 radius of the certificate, in the same units.
        confidence: Probability with which both bounds of an image hold together.
        batch_size: Noisy copies in a forward pass; bounds memory, changes scores by rounding only.
        clamp: Whether noisy images are cut to [0, 1] before anything else sees them.
        denoiser: Purifier in front of the model, or the word of one; empty for none.

    Raises:
        ValueError: If a setting is not allowed.
    """

    guarantee: ClassVar[str] = "global"

    samples: int = 1000
    sigma: float = 0.12
    radius: float = 0.05
    confidence: float = 0.999
    batch_size: int = 16
    clamp: bool = False
    denoiser: str | Purifier = ""

    def __post_init__(self) -> None:
        check_smoothing(samples=self.samples, sigma=self.sigma, radius=self.radius, confidence=self.confidence)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def noisy_scores(self, model: QualityModel) -> NoisyScores:
        """Return what is sampled of a model."""
        denoiser = denoiser_of(self.denoiser) if isinstance(self.denoiser, str) else self.denoiser
        if isinstance(denoiser, nn.Module):
            denoiser.to(model.mean.device)
        clamps = self.clamp or isinstance(model, Defended)
        return NoisyScores(model, self.sigma, self.batch_size, clamps=clamps, denoiser=denoiser)


@dataclass(frozen=True)
class MedianSmoothing(InputSmoothing):
    """Median of the scores of noisy copies (MS), with a denoiser in front DMS; arguments as in `InputSmoothing`.

    The estimate is the middle score, for an even number the mean of the two middle ones. It abstains where there are
    too few samples for the confidence.

    Source: Chiang et al., NeurIPS 2020, arXiv:2007.03730; with a denoiser, also its Section 4.
    """

    def bind(self, model: QualityModel) -> BoundMedian:
        """Return this smoother of a model, which is not changed.

        Raises:
            UsageError: If the denoiser's word names none.
        """
        return BoundMedian(self, self.noisy_scores(model))


@dataclass(frozen=True)
class MeanSmoothing(InputSmoothing):
    """Mean of the clipped scores of noisy copies (RS), with a denoiser in front DRS; arguments as in `InputSmoothing`.

    Scores are counted from 0 to 1 over the model's score range and clipped there, so what is certified is the mean of
    the clipped score, given in model units again. It never abstains: bounds that say nothing are the ends of the
    range.

    Source: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, arXiv:1902.02918,
    as a regression: Salman et al., NeurIPS 2019, arXiv:1906.04584; denoiser: Salman et al., NeurIPS 2020,
    arXiv:2003.01908.
    """

    def bind(self, model: QualityModel) -> BoundMean:
        """Return this smoother of a model, which is not changed.

        Raises:
            ModelLoadError: If the model has no score range.
            UsageError: If the denoiser's word names none.
        """
        if model.scale is None:
            raise ModelLoadError(
                f"mean smoothing clips scores to the range of {model.name}, which is not known; give it with "
                "--score-range LOW,HIGH, or use median smoothing (ms)"
            )
        return BoundMean(self, self.noisy_scores(model), model.scale)


@dataclass(frozen=True)
class BoundMedian:
    """Median smoothing of one model.

    Args:
        smoothing: Settings.
        noisy: What is sampled.
    """

    smoothing: MedianSmoothing
    noisy: NoisyScores

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        """Return medians (N,) of the scores of noisy copies; the gradient is that of the middle ones."""
        scores = self.noisy(images, generator, samples or self.smoothing.samples)
        return _middle(scores.sort(-1).values)

    @torch.no_grad()
    def certify(self, images: Tensor, generator: Generator) -> Certificate:
        """Return medians with bounds, float64."""
        chosen = self.smoothing
        ordered = self.noisy(images, generator, chosen.samples).double().sort(-1).values
        bounds = median_bounds(ordered, sigma=chosen.sigma, radius=chosen.radius, confidence=chosen.confidence)
        return Certificate(_middle(ordered), *bounds)


@dataclass(frozen=True)
class BoundMean:
    """Mean smoothing of one model.

    Args:
        smoothing: Settings.
        noisy: What is sampled.
        scale: Range that scores are clipped to.
    """

    smoothing: MeanSmoothing
    noisy: NoisyScores
    scale: ScoreScale

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        """Return means (N,) of the clipped scores of noisy copies.

        Clipping is differentiated as the identity (ours), lest scores outside the range hide their gradient.
        """
        scores = self.noisy(images, generator, samples or self.smoothing.samples)
        return straight_through(self._clipped)(scores).mean(-1)

    @torch.no_grad()
    def certify(self, images: Tensor, generator: Generator) -> Certificate:
        """Return means with bounds, float64."""
        chosen, scale = self.smoothing, self.scale
        scores = self.noisy(images, generator, chosen.samples).double()
        values = ((scores - scale.low) / scale.width).clamp(0, 1)
        bounds = mean_bounds(values, sigma=chosen.sigma, radius=chosen.radius, confidence=chosen.confidence)
        return Certificate(*(scale.low + scale.width * part for part in (values.mean(-1), *bounds)))

    def _clipped(self, scores: Tensor) -> Tensor:
        return scores.clamp(self.scale.low, self.scale.high)


def denoiser_of(word: str) -> Purifier | None:
    """Return the purifier that a word of the command line means, None for an empty one.

    Raises:
        UsageError: If there is no such purifier.
    """
    if not word:
        return None
    return read_purifier(word)


def _middle(ordered: Tensor) -> Tensor:
    count = ordered.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2
