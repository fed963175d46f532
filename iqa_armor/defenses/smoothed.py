"""A model behind a smoother."""

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import Certificate, Defended, Smoother, Threat
from iqa_armor.models.base import QualityModel

ATTACKED_COPIES = 4


class Smoothed(Defended):
    """A model whose score of an image is that of many noisy copies; errors as in `smoother.bind`.

    An adaptive attacker averages a few noisy copies at every call, whose activations are kept.
    """

    def __init__(self, inner: QualityModel, smoother: Smoother, *, word: str, threat: Threat = "adaptive") -> None:
        super().__init__(inner, description=word, threat=threat, suffix=f" + {word}")
        self.smoother, self.is_random = smoother, True
        self.bound = self.attacked = smoother.bind(inner)
        if isinstance(inner, Defended):
            self.attacked = smoother.bind(_AsAttacked(inner, description=inner.description))
        # A learned denoiser follows the model from device to device.
        denoisers = (getattr(bound, "denoiser", None) for bound in (self.bound, self.attacked))
        self.learned = nn.ModuleList(dict.fromkeys(part for part in denoisers if isinstance(part, nn.Module)))

    def forward(self, images: Tensor) -> Tensor:
        """Return estimated smoothed scores (N,) of prepared images (N, 3, H, W) in [0, 1]."""
        return self.bound.scores(images, self.next_generator(images))

    def attacked_scores(self, images: Tensor) -> Tensor:
        """Return the scores (N,) that an adaptive attacker differentiates: means over a few noisy copies.

        Mean, not median: its gradient uses every copy, and for the small noise in use it points where the median's
        expectation does (ours).

        Source: SmoothAdv, Salman et al., NeurIPS 2019, arXiv:1906.04584, Section 3, with fewer copies.
        """
        generator = self.next_generator(images)
        copies = [self.attacked.scores(images, generator, samples=1) for _ in range(ATTACKED_COPIES)]
        return torch.stack(copies).mean(0)

    def certify(self, images: Tensor, generator: Generator | None = None) -> Certificate:
        """Return smoothed scores of prepared images (N, 3, H, W) in [0, 1] with bounds, in model units."""
        return self.bound.certify(images, generator or self.next_generator(images))


class _AsAttacked(Defended):
    """A defended model whose scores are those that its adaptive attacker differentiates."""

    inner: Defended

    def attacked_scores(self, images: Tensor) -> Tensor:
        return self.inner.attacked_scores(images)

    forward = attacked_scores
