"""A model behind purifiers."""

from collections.abc import Mapping

from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import Approximated, Defended, Purifier, Threat
from iqa_armor.errors import ModelLoadError
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
            purified = purifier(images, generator)
            if purified.shape != images.shape:
                shapes = f"{tuple(purified.shape)} for {tuple(images.shape)}"
                raise ModelLoadError(f"the purifier {word!r} must keep the shape of images, but gave {shapes}")
            images = purified
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N,) of prepared images (N, 3, H, W) in [0, 1], purified first."""
        return self.inner(self.purify(images, self.next_generator(images)))  # type: ignore[no-any-return]

    def attacked_scores(self, images: Tensor) -> Tensor:
        """Return the scores (N,) that an adaptive attacker differentiates.

        Purifiers without a gradient are computed and their stand-in, else the identity, is differentiated.

        Source: BPDA, Athalye et al., ICML 2018, arXiv:1802.00420, Section 4.1.
        """
        generator = self.next_generator(images)
        for purifier in self.chain.values():
            images = _attacked(purifier, images, generator)
        behind = self.inner.attacked_scores if isinstance(self.inner, Defended) else self.inner
        return behind(images)


def _attacked(purifier: Purifier, images: Tensor, generator: Generator) -> Tensor:
    if purifier.is_differentiable:
        return purifier(images, generator)
    stand_in = purifier.surrogate if isinstance(purifier, Approximated) else None
    return straight_through(lambda given: purifier(given, generator), stand_in)(images)
