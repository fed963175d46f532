"""Start a RobustBlock as the projection on the principal directions of the tensor it stands on."""

import torch
from torch import Tensor

from iqa_armor.ortho.block import RobustBlock


@torch.no_grad()
def initialize_identity(block: RobustBlock, features: Tensor) -> None:
    """Set a block, in place, to x → P Pᵀ(x − μ) + μ, P the top principal directions of `features`.

    There are as many as the block's reduction has outputs, ⌊C/2⌋ in a block as built; any number from 1 to C
    works, and with C of them the block is the identity. Where the features span fewer, nothing of them is lost.
    Square pooling of maps that are not square still changes them; on square maps, or with pool "none", the
    block computes the projection to rounding. Every parameter can be trained on from there. The features (N, C, H, W)
    are what the block will stand on, for calibration images; a ValueError refuses features that are empty, not finite,
    or of another number of channels.

    Source: (ours), a principal component analysis over images and positions.
    """
    if features.ndim != 4 or features.shape[1] != block.channels or not features.numel():
        raise ValueError(f"features must be (N, {block.channels}, H, W), got {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinite values")
    device = block.reduction.weight.device
    directions, mean = principal_directions(features.to(device), block.orthogonal.in_channels)
    directions = block.orthogonal.aligned(directions)
    block.orthogonal.assign(directions)
    block.orthogonal.bias.copy_(mean)
    block.reduction.weight.copy_(directions.T[..., None, None])
    block.reduction.bias.copy_(-directions.T @ mean)  # type: ignore[union-attr]


def principal_directions(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` ≤ C directions of largest variance (C, count), orthonormal, and the mean (C,), in float64.

    Every position of every image of the features (N, C, H, W) is a sample.
    """
    samples = features.to(torch.promote_types(features.dtype, torch.float32)).movedim(1, 0).flatten(1)
    mean = samples.mean(1, dtype=torch.float64)
    centered = samples - mean.to(samples.dtype)[:, None]
    covariance = (centered @ centered.T).double() / centered.shape[1]
    directions: Tensor = torch.linalg.eigh(covariance).eigenvectors  # ascending eigenvalues
    return directions.flip(1)[:, :count], mean
