"""AOC and AOL: kernels against orthogonium's and against what they promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iqa_armor.ortho.aoc import AocConv2d, orthogonal_kernel, orthonormal_columns
from iqa_armor.ortho.aol import AolConv2d, rescale
from iqa_armor.ortho.circular import adjoint_kernel, autocorrelation, convolve
from iqa_armor.ortho.lipschitz import singular_values

NORM_TOLERANCE = 1e-4


def test_autocorrelation_is_the_kernel_of_the_gram_operator() -> None:
    kernel, maps = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 2, 7)
    twice = convolve(convolve(maps, kernel), adjoint_kernel(kernel))
    torch.testing.assert_close(convolve(maps, autocorrelation(kernel)), twice, atol=1e-4, rtol=1e-4)


def test_orthonormal_columns_stand_ill_conditioned_matrices() -> None:
    matrices = torch.randn(2, 40, 20) * torch.logspace(0, -2, 20)
    columns = orthonormal_columns(matrices)
    torch.testing.assert_close(columns.mT @ columns, torch.eye(20).expand(2, 20, 20), atol=3e-6, rtol=0)


def test_aoc_composes_as_orthogonium_does() -> None:
    """On the same projectors, our block convolutions are theirs."""
    block = pytest.importorskip("orthogonium.layers.conv.AOC.fast_block_ortho_conv")
    torch.manual_seed(0)
    mixing, subspaces = torch.randn(6, 3), torch.randn(4, 6, 3)
    bases = orthonormal_columns(subspaces)
    inside = bases @ bases.mT
    outside = torch.eye(6) - inside
    factors = [  # 2×1, 1×2, and with exchanged taps 1×2, 2×1
        torch.stack([inside[0], outside[0]], dim=-1)[..., None],
        torch.stack([inside[1], outside[1]], dim=-1)[..., None, :],
        torch.stack([outside[2], inside[2]], dim=-1)[..., None, :],
        torch.stack([outside[3], inside[3]], dim=-1)[..., None],
    ]
    expected = orthonormal_columns(mixing)[..., None, None]
    for factor in factors:
        full = torch.zeros(6, 6, 2, 2)  # theirs takes square kernels only
        full[..., : factor.shape[2], : factor.shape[3]] = factor
        expected = block.fast_matrix_conv(expected, full)
    assert expected[..., 3:, :].abs().max() == expected[..., 3:].abs().max() == 0
    found = orthogonal_kernel(mixing, subspaces)
    torch.testing.assert_close(found, expected[..., :3, :3], atol=1e-5, rtol=1e-5)


def test_aoc_and_orthogonium_are_both_orthogonal() -> None:
    theirs = pytest.importorskip("orthogonium.layers").AdaptiveOrthoConv2d(6, 12, 3)
    for layer, tolerance in ((theirs, 1e-3), (AocConv2d(6, 12), NORM_TOLERANCE)):
        values = singular_values(layer, channels=6, size=(5, 6))
        assert abs(values - 1).max() < tolerance


def test_aol_rescales_as_orthogonium_does() -> None:
    module = pytest.importorskip("orthogonium.layers.conv.AOL.aol")
    kernel = torch.randn(12, 6, 3, 3)
    theirs = module.MultiStepAOLReparametrizer(6, groups=1, niter=1)(kernel)
    torch.testing.assert_close(rescale(kernel), theirs, atol=1e-6, rtol=1e-4)


def test_aol_leaves_an_orthogonal_kernel_alone_and_bounds_any_other() -> None:
    torch.manual_seed(0)
    layer = AolConv2d(6, 12)
    torch.testing.assert_close(layer.kernel(), layer.weight.detach(), atol=1e-5, rtol=1e-4)
    for scale in (1e-3, 1.0, 1e3):
        nn.init.normal_(layer.weight, std=scale)
        assert singular_values(layer, channels=6, size=(5, 7))[0] <= 1 + NORM_TOLERANCE


def test_aol_keeps_a_dead_input_channel_finite() -> None:
    layer = AolConv2d(3, 6)
    with torch.no_grad():
        layer.weight[:, 1] = 0
    layer(torch.randn(1, 3, 4, 4)).sum().backward()
    assert torch.isfinite(layer.weight.grad).all()  # type: ignore[arg-type]
