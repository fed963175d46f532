"""A model behind a defense: behind purifiers, or behind a smoother."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import Approximated, Certificate, Defended, Purifier, Smoother, Threat
from iqa_armor.errors import ModelLoadError, calling
from iqa_armor.gradients import straight_through
from iqa_armor.models.base import QualityModel


class Purified(Defended):
    """A model that sees purified images only: those of a chain of purifiers, by their words, in their order."""

    def __init__(self, inner: QualityModel, chain: Mapping[str, Purifier], *, threat: Threat = "adaptive") -> None:
        if not chain:
            raise ValueError("a purified model needs at least one purifier")
        suffix = "".join(f" + {word}" for word in chain)
        super().__init__(inner, description="+".join(chain), threat=threat, suffix=suffix)
        self.chain = dict(chain)
        self.is_random |= any(purifier.is_random for purifier in chain.values())
        # Learned ones follow the model from device to device.
        self.learned = nn.ModuleList(purifier for purifier in chain.values() if isinstance(purifier, nn.Module))

    def purify(self, images: Tensor, generator: Generator) -> Tensor:
        """Return prepared images (N, 3, H, W) in [0, 1] as the inner model sees them; their shape has to stay."""
        for word, purifier in self.chain.items():
            with calling(f"the purifier {word!r}", ModelLoadError):
                purified: object = purifier(images.clone(), generator)  # which it may change
            given = tuple(purified.shape) if isinstance(purified, Tensor) else type(purified).__name__
            if not isinstance(purified, Tensor) or purified.shape != images.shape:
                wanted = f"must keep the shape of images, but gave {given} for {tuple(images.shape)}"
                raise ModelLoadError(f"the purifier {word!r} {wanted}")
            images = purified
        return images

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(self.purify(images, self.next_generator(images)))  # type: ignore[no-any-return]

    def attacked_scores(self, images: Tensor) -> Tensor:
        """Return the scores (N,) that an adaptive attacker differentiates.

        In the place of purifiers without a gradient, that is their stand-in, else the identity. Source: BPDA, Athalye
        et al., ICML 2018, arXiv:1802.00420, Section 4.1.
        """
        generator = self.next_generator(images)
        for word, purifier in self.chain.items():
            with calling(f"the purifier {word!r}", ModelLoadError):
                images = _attacked(purifier, images.clone(), generator)
        behind = self.inner.attacked_scores if isinstance(self.inner, Defended) else self.inner
        return behind(images)


def _attacked(purifier: Purifier, images: Tensor, generator: Generator) -> Tensor:
    if purifier.is_differentiable:
        return purifier(images, generator)
    stand_in = purifier.surrogate if isinstance(purifier, Approximated) else None
    return straight_through(lambda given: purifier(given, generator), stand_in)(images)


ATTACKED_COPIES = 4  # that an adaptive attacker averages at every call, whose activations are kept


class Smoothed(Defended):
    """A model whose score of an image is that of many noisy copies; errors as in `smoother.bind`."""

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
        return self.bound.scores(images, self.next_generator(images))

    def attacked_scores(self, images: Tensor) -> Tensor:
        """Return the scores (N,) that an adaptive attacker differentiates: means over a few noisy copies.

        Source: SmoothAdv, Salman et al., NeurIPS 2019, arXiv:1906.04584, Section 3, with fewer copies. Mean, not median
        (ours): its gradient uses every copy, and for the small noise in use points where the median's expectation does.
        """
        generator = self.next_generator(images)
        return torch.stack([self.attacked.scores(images, generator, samples=1) for _ in range(ATTACKED_COPIES)]).mean(0)

    def certify(self, images: Tensor, generator: Generator | None = None) -> Certificate:
        """Return smoothed scores of prepared images (N, 3, H, W) in [0, 1] with bounds, in model units."""
        return self.bound.certify(images, generator or self.next_generator(images))


class _AsAttacked(Defended):
    """A defended model whose scores are those that its adaptive attacker differentiates."""

    inner: Defended

    def attacked_scores(self, images: Tensor) -> Tensor:
        return self.inner.attacked_scores(images)

    forward = attacked_scores
