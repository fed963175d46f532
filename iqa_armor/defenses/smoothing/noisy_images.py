"""Scores of noisy copies of images, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from iqa_armor.defenses.base import Purifier
from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import QualityModel


@dataclass(frozen=True)
class NoisyScores:
    """What a model gives for images with Gaussian noise.

    Noise is drawn copy by copy, image by image. So the first copies of an image are the same however many there are,
    the noise does not depend on `batch_size`, and images scored together get the noise that they get one after
    another from the same generator. Scores may still differ by rounding, and all of it ends where the model or the
    denoiser draws as well.

    Args:
        model: Scored.
        sigma: Standard deviation of the noise, pixels being in [0, 1].
        batch_size: Noisy copies in a forward pass.
        clamps: Whether noisy images are cut to [0, 1], as the first step of what is smoothed.
        denoiser: Applied to noisy images, or None.
    """

    model: QualityModel
    sigma: float
    batch_size: int
    clamps: bool = False
    denoiser: Purifier | None = None

    def __call__(self, images: Tensor, generator: Generator, samples: int) -> Tensor:
        """Return scores (N, samples) of noisy copies of images (N, 3, H, W) in [0, 1], in the order of the draws.

        Raises:
            ValueError: If there is no image or no sample.
            ModelLoadError: If a score is not finite.
        """
        if samples < 1 or not len(images):
            raise ValueError(f"noisy scores need images and samples >= 1, got {len(images)} and {samples}")
        scores = torch.stack([torch.cat(list(self._of_one(image, generator, samples))) for image in images])
        if not bool(scores.isfinite().all()):
            raise ModelLoadError(
                f"{self.model.name} gives noisy images scores that are not finite; check its weights, or smooth with "
                "a smaller sigma"
            )
        return scores

    def _of_one(self, image: Tensor, generator: Generator, samples: int) -> Iterator[Tensor]:
        for start in range(0, samples, self.batch_size):
            count = min(self.batch_size, samples - start)
            noise = torch.empty((count, *image.shape), dtype=image.dtype, device=generator.device)
            for copy in noise:
                copy.normal_(generator=generator)
            noisy = image + self.sigma * noise.to(image.device)
            if self.clamps:
                noisy = noisy.clamp(0, 1)
            yield self.model(noisy if self.denoiser is None else self.denoiser(noisy, generator))
