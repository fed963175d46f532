"""Start a RobustBlock as the projection on the principal directions of the tensor it stands on."""

from __future__ import annotations

import torch
from torch import Tensor

from iqa_armor.ortho.aoc import AocConv2d
from iqa_armor.ortho.aol import AolConv2d
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.cayley import CayleyConv2d
from iqa_armor.ortho.layer import OrthogonalConv2d


@torch.no_grad()
def initialize_identity(block: RobustBlock, features: Tensor) -> None:
    """Set a block, in place, to x → P Pᵀ(x − μ) + μ, P the top principal directions of `features`.

    There are as many as the block's reduction has outputs, ⌊C/2⌋ in a block as built; any number from 1 to C
    works, and with C of them the block is the identity. Where the features span fewer, nothing of them is lost.
    Square pooling of maps that are not square still changes them; on square maps, or with pool "none", the
    block computes the projection to rounding. Every parameter can be trained on from there.

    Args:
        block: Any backend.
        features: What the block will stand on, (N, C, H, W), for calibration images.

    Raises:
        ValueError: If the features are empty, not finite, or have another number of channels.

    Source: (ours), a principal component analysis over images and positions.
    """
    if features.ndim != 4 or features.shape[1] != block.channels or not features.numel():
        raise ValueError(f"features must be (N, {block.channels}, H, W), got {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinite values")
    device = block.reduction.weight.device
    directions, mean = principal_directions(features.to(device), block.orthogonal.in_channels)
    if isinstance(block.orthogonal, CayleyConv2d):
        directions = _with_positive_top(directions)
    _assign_center(block.orthogonal, directions)
    block.orthogonal.bias.copy_(mean)
    block.reduction.weight.copy_(directions.T[..., None, None])
    block.reduction.bias.copy_(-directions.T @ mean)  # type: ignore[union-attr]


def principal_directions(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` directions of largest variance (C, count), orthonormal, and the mean (C,), in float64.

    Args:
        features: (N, C, H, W); every position of every image is a sample.
        count: At most C.
    """
    samples = features.to(torch.promote_types(features.dtype, torch.float32)).movedim(1, 0).flatten(1)
    mean = samples.mean(1, dtype=torch.float64)
    centered = samples - mean.to(samples.dtype)[:, None]
    covariance = (centered @ centered.T).double() / centered.shape[1]
    directions: Tensor = torch.linalg.eigh(covariance).eigenvectors  # ascending eigenvalues
    return directions.flip(1)[:, :count], mean


def _with_positive_top(directions: Tensor) -> Tensor:
    """Return P R with R such that the top square of P R is symmetric and positive.

    With P₁ = W S Zᵀ and R = Z Wᵀ it is W S Wᵀ; without that, an orthogonal map whose top square has an
    eigenvalue of −1 has no Cayley transform.
    """
    left, _, right = torch.linalg.svd(directions[: directions.shape[1]])
    rotated: Tensor = directions @ right.T @ left.T
    return rotated


def _assign_center(layer: OrthogonalConv2d, directions: Tensor) -> None:
    """Set a layer, in place, to the 1×1 convolution with orthonormal columns `directions` (C_out, C_in)."""
    center = layer.kernel_size // 2
    if isinstance(layer, AocConv2d):
        layer.mixing.copy_(directions)
        for number in range(0, len(layer.subspaces), 4):  # mirrored subspaces: the four factors cancel
            layer.subspaces[number + 2 : number + 4] = layer.subspaces[number : number + 2].flip(0)
        return
    if not isinstance(layer, AolConv2d | CayleyConv2d):
        raise ValueError(f"no identity initialization is known for {type(layer).__name__}")
    layer.weight.zero_()
    layer.weight[..., center, center] = (
        _cayley_weight(directions) if isinstance(layer, CayleyConv2d) else directions
    ).to(layer.weight.dtype)


def _cayley_weight(directions: Tensor) -> Tensor:
    """Return (C_out, C_in) whose Cayley transform is [Q₁; Q₂] = `directions`, Q₁ symmetric and positive.

    A = (I − Q₁)(I + Q₁)⁻¹ is symmetric, so U = 0, and V = −Q₂(I + A)/2 gives VᵀV = A as Q₁² + Q₂ᵀQ₂ = I.
    """
    channels = directions.shape[1]
    top, bottom = directions[:channels], directions[channels:]
    identity = torch.eye(channels, dtype=directions.dtype, device=directions.device)
    matrix = torch.linalg.solve(identity + top, identity - top)
    return torch.cat([torch.zeros_like(top), -bottom @ (identity + matrix) / 2])
