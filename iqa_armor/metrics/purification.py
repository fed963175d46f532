"""How well a purifier keeps images and undoes attacks."""

from __future__ import annotations

from torch import Tensor

from iqa_armor.metrics.fidelity import psnr, ssim

PSNR_SCALE = 80.0
SMALLEST_SCORE = 0.05


def quality_score(clean: Tensor, purified: Tensor) -> Tensor:
    """Visual quality (N,) of purified images, (SSIM + PSNR / 80) / 2.

    Args:
        clean: Images (N, 3, H, W) in [0, 1] before attack and purification, at least 11×11 pixels.
        purified: The same images attacked or not, and purified; (1 + 150/80) / 2 = 1.4375 where nothing changed.

    Source: [AP] Gushchin et al., "Adversarial purification for no-reference image-quality metrics", arXiv:2404.06957.
    """
    return (ssim(clean, purified) + psnr(clean, purified) / PSNR_SCALE) / 2


def gain_score(clean: Tensor, purified: Tensor) -> Tensor:
    """Change (N,) of the score that an attack keeps through a purifier, |s_clean − s_purified| / |s_clean|, at least 0.

    Args:
        clean: Scores (N,) of clean images without the purifier, normalised: the model's own range is [0, 1].
        purified: Scores (N,) of the same images attacked and purified, normalised alike.

    Source: [AP] Gushchin et al., arXiv:2404.06957; the denominator's floor of 0.05, without which one image of
    score 0 decides the mean, is (ours).
    """
    if clean.shape != purified.shape:
        raise ValueError(f"scores must pair up, got {tuple(clean.shape)} and {tuple(purified.shape)}")
    return (clean - purified).abs() / clean.abs().clamp_min(SMALLEST_SCORE)
