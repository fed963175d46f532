"""How far attacked images are from the clean ones: L-infinity, L2, PSNR, SSIM, and the quality of purified ones.

All take images (N, 3, H, W) in [0, 1] and the same images changed, and return (N,); a ValueError refuses images that do
not pair up, and for SSIM those smaller than its window, 11×11 pixels.
"""

import torch
from torch import Tensor

EQUAL_PSNR = 150.0
SSIM_WINDOW = 11


def linf(clean: Tensor, attacked: Tensor) -> Tensor:
    """Largest change of any pixel value of each image, in [0, 1]."""
    return _difference(clean, attacked).abs().flatten(1).amax(1)


def l2(clean: Tensor, attacked: Tensor) -> Tensor:
    """Euclidean length of the change of each image, at most √(3·H·W)."""
    return _difference(clean, attacked).square().flatten(1).sum(1).sqrt()


def psnr(clean: Tensor, attacked: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each changed image in decibels; 150, the largest value, where images are equal.

    Source: [AP] Gushchin et al., arXiv:2404.06957, for the value at equality.
    """
    error = _difference(clean, attacked).square().flatten(1).mean(1)
    return (-10 * error.log10()).clamp(max=EQUAL_PSNR)


def ssim(clean: Tensor, attacked: Tensor) -> Tensor:
    """Structural similarity of each changed image to the clean one, as piq computes it; 1 for equal images.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004;
    11×11 Gaussian window, σ = 1.5, mean over color channels, images shrunk to about 256 pixels on a side as there.
    """
    _difference(clean, attacked)
    if min(clean.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs at least 11×11 pixels, got {tuple(clean.shape[-2:])}")
    from piq.ssim import ssim as piq_ssim  # heavy, and needed here only

    similarity = piq_ssim(attacked.clamp(0, 1), clean.clamp(0, 1), data_range=1.0, reduction="none")
    return torch.as_tensor(similarity).reshape(len(clean))


def quality_score(clean: Tensor, purified: Tensor) -> Tensor:
    """Visual quality of purified images, (SSIM + PSNR / 80) / 2: 1.4375 where nothing changed, attacked or not.

    Source: [AP] Gushchin et al., "Adversarial purification for no-reference image-quality metrics", arXiv:2404.06957.
    """
    return (ssim(clean, purified) + psnr(clean, purified) / 80) / 2


def _difference(clean: Tensor, attacked: Tensor) -> Tensor:
    if clean.shape != attacked.shape or clean.ndim != 4:
        raise ValueError(f"images must pair up, got {tuple(clean.shape)} and {tuple(attacked.shape)}")
    return attacked - clean
