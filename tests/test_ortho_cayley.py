"""The Cayley convolution against the published formula, and its derivatives."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from iqa_armor.ortho.cayley import CayleyConv2d


def published(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹] at every frequency, A = U − Uᴴ + VᴴV (PROTOCOL.md, Section 1)."""
    channels, size = weight.shape[1], weight.shape[-1]
    height, width = maps.shape[-2:]
    placed = torch.zeros(*weight.shape[:2], height, width, dtype=weight.dtype)
    for row in range(size):
        for column in range(size):  # a correlation reads x(p + t − center)
            at = (size // 2 - row) % height, (size // 2 - column) % width
            placed[:, :, at[0], at[1]] = placed[:, :, at[0], at[1]] + weight[:, :, row, column]
    kernel = torch.fft.fft2(placed).permute(2, 3, 0, 1)
    upper, lower = kernel[..., :channels, :], kernel[..., channels:, :]
    identity = torch.eye(channels, dtype=kernel.dtype)
    matrix = upper - upper.mH + lower.mH @ lower
    inverse = torch.linalg.inv(identity + matrix)
    transform = torch.cat([inverse @ (identity - matrix), -2 * lower @ inverse], dim=-2)
    spectrum = torch.fft.fft2(maps).permute(2, 3, 1, 0)
    return torch.fft.ifft2((transform @ spectrum.to(transform.dtype)).permute(3, 2, 0, 1)).real + bias.view(-1, 1, 1)


def make(in_channels: int, out_channels: int, kernel_size: int = 3) -> CayleyConv2d:
    torch.manual_seed(0)
    layer = CayleyConv2d(in_channels, out_channels, kernel_size)
    torch.nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (7, 4), (1, 1), (2, 3), (1, 6), (6, 1), (2, 2)])
@pytest.mark.parametrize(("channels", "kernel_size"), [((4, 8), 3), ((3, 7), 5), ((5, 5), 3), ((2, 9), 1)])
def test_agrees_with_the_published_formula(size: tuple[int, int], channels: tuple[int, int], kernel_size: int) -> None:
    layer = make(*channels, kernel_size)
    maps = torch.randn(3, channels[0], *size)
    expected = published(maps, layer.weight, layer.bias)
    torch.testing.assert_close(layer(maps), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.eval()(maps), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(5, 6), (2, 3)])
def test_gradients_agree_with_the_published_formula(size: tuple[int, int]) -> None:
    layer = make(4, 9)
    maps, target = torch.randn(3, 4, *size, requires_grad=True), torch.randn(3, 9, *size)
    wanted = [maps, layer.weight, layer.bias]
    found = torch.autograd.grad((layer(maps) * target).sum(), wanted)
    expected = torch.autograd.grad((published(maps, layer.weight, layer.bias) * target).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("channels", "size"), [((2, 5), (2, 3)), ((2, 2), (2, 1)), ((1, 3), (1, 1))])
def test_first_and_second_derivatives_in_float64(channels: tuple[int, int], size: tuple[int, int]) -> None:
    layer = make(*channels).double()
    maps = torch.randn(1, channels[0], *size, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().clone().requires_grad_()

    def function(maps: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (maps,))

    assert torch.autograd.gradcheck(function, (maps, weight))
    assert torch.autograd.gradgradcheck(function, (maps, weight), fast_mode=True)


def test_many_frequencies_are_worked_on_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, maps = make(4, 8), torch.randn(2, 4, 6, 5)
    whole = layer(maps), layer.eval()(maps)
    layer.cache.clear()
    monkeypatch.setattr("iqa_armor.ortho.spectrum.CHUNK", 40)
    parts = layer.train()(maps), layer.eval()(maps)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_norms_hold_for_large_weights() -> None:
    layer = make(6, 12)
    with torch.no_grad():
        layer.weight.mul_(30)
        maps = torch.randn(2, 6, 5, 6)
        output = layer(maps) - layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(output.norm(), maps.norm(), atol=0, rtol=1e-4)


def test_input_derivatives_in_eval_in_float64() -> None:
    layer = make(2, 5).double().eval()
    maps = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (maps,))


def test_norms_hold_after_the_number_of_threads_was_set() -> None:
    """PyTorch's batched factorization is silently wrong then (its issue 141358), so we must not use it."""
    code = (
        "import torch; torch.set_num_threads(2); torch.manual_seed(0); from iqa_armor.ortho import CayleyConv2d\n"
        "layer = CayleyConv2d(192, 200); maps = torch.randn(1, 192, 4, 4)\n"
        "with torch.no_grad(): print(*(float(net(maps).norm() / maps.norm()) for net in (layer.train(), layer.eval())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "MKL ERROR" not in done.stdout + done.stderr
    assert [float(word) for word in done.stdout.split()] == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("channels", [(5, 9), (6, 12), (16, 32)])
@pytest.mark.parametrize("size", [(4, 7), (8, 8)])
def test_one_image_is_scored_like_many(channels: tuple[int, int], size: tuple[int, int]) -> None:
    layer = make(*channels).eval().requires_grad_(False)  # one image and many take different ways through the inverse
    maps = torch.randn(3, channels[0], *size, requires_grad=True)
    together = layer(maps)
    one_by_one = torch.cat([layer(one) for one in maps.split(1)])
    torch.testing.assert_close(one_by_one, together, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(layer.train()(maps), together, atol=2e-6, rtol=1e-5)
    target = torch.randn_like(together)
    gradients = [torch.autograd.grad(output, maps, target)[0] for output in (together, one_by_one)]
    torch.testing.assert_close(*gradients, atol=2e-6, rtol=1e-5)
