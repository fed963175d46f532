"""Singular values of Jacobians against full decompositions, and bounds that no measured value exceeds."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import small_network
from torch import Generator, Tensor, nn

from iqa_armor.defenses.smoothing.product_bound import product_bound
from iqa_armor.models.build import torchvision_network
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.lanczos import largest_singular_value, linearized
from iqa_armor.ortho.lipschitz import _reshaped, convolution_bound, singular_values


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


def seeded(*layers: nn.Module) -> nn.Sequential:
    """Return layers in eval mode with weights drawn anew from one seed."""
    network = nn.Sequential(*layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return network.eval()


def wide() -> nn.Sequential:
    """Return a network whose features are more numerous than its pixels."""
    return seeded(nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten())


NETWORKS = {
    "relu": lambda: small_network()[:-1].eval(),
    "smooth": lambda: seeded(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 6, 3), nn.Flatten()),
    "wide": wide,
    "cayley": lambda: seeded(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), RobustBlock(6), nn.Flatten()),
}


def full_decomposition(network: nn.Module, images: Tensor) -> Tensor:
    """Return the largest singular value at each image, from every entry of its Jacobian."""
    found = []
    for image in images:
        matrix = torch.autograd.functional.jacobian(lambda x: network(x[None])[0], image)
        found.append(torch.linalg.svdvals(matrix.flatten(1).double())[0])
    return torch.stack(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_those_of_a_full_decomposition(name: str) -> None:
    network, images = NETWORKS[name](), draw(4, 3, 12, 14)
    found = largest_singular_value(network, images)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, full_decomposition(network, images), rtol=1e-3, atol=0)


def test_images_of_a_batch_do_not_influence_one_another() -> None:
    network, images = NETWORKS["smooth"](), draw(3, 3, 12, 14)
    together = largest_singular_value(network, images).values
    apart = torch.cat([largest_singular_value(network, images[i : i + 1]).values for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=0)


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-5, 0.0])
def test_nearly_tied_values_do_not_hide_the_largest(gap: float) -> None:
    count = 60
    basis = torch.linalg.qr(torch.randn(count, count, generator=Generator().manual_seed(3)).double())[0]
    values = torch.linspace(0.1, 1.0, count, dtype=torch.float64)
    values[-3:] = torch.tensor([1 + gap, 1.0, 1 - gap], dtype=torch.float64)
    matrix = basis @ torch.diag(values) @ basis.T
    found = largest_singular_value(lambda x: x @ matrix.T, torch.zeros(2, count, dtype=torch.float64))
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, (1 + gap) * torch.ones(2, dtype=torch.float64), rtol=1e-3, atol=0)


def test_too_few_steps_are_said_not_to_have_converged() -> None:
    found = largest_singular_value(NETWORKS["wide"](), draw(2, 3, 12, 14), steps=3)
    assert not bool(found.converged.any())


@pytest.mark.parametrize("features", [1, 2])
def test_few_features_are_exhausted_and_exact(features: int) -> None:
    network = seeded(nn.Flatten(), nn.Linear(75, features))
    found = largest_singular_value(network, draw(2, 3, 5, 5))
    assert bool(found.converged.all())
    expected = torch.linalg.matrix_norm(network[1].weight.double(), 2).detach()
    torch.testing.assert_close(found.values, expected.expand(2), rtol=1e-5, atol=0)


def test_a_constant_function_has_a_zero_jacobian() -> None:
    found = largest_singular_value(lambda x: 0 * x.flatten(1), draw(2, 3, 4, 4))
    assert found.values.tolist() == [0, 0]
    assert bool(found.converged.all())


def test_values_that_are_not_finite_have_not_converged() -> None:
    found = largest_singular_value(lambda x: x.sqrt().flatten(1), torch.zeros(1, 3, 4, 4))
    assert not bool(found.converged.any())


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_adjoint_to_each_other(name: str) -> None:
    network, images = NETWORKS[name](), draw(2, 3, 12, 14)
    output, push, pull = linearized(network, images)
    tangent, cotangent = torch.randn_like(images), torch.randn_like(output)
    torch.testing.assert_close(
        (push(tangent) * cotangent).sum(), (pull(cotangent) * tangent).sum(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("arguments", [{"tolerance": 0}, {"steps": 0}, {"starts": 0}])
def test_wrong_arguments_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        largest_singular_value(nn.Identity(), draw(1, 3, 4, 4), **arguments)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = seeded(nn.Conv2d(3, 6, 7, stride=2, padding=3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.branch = seeded(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.LeakyReLU(0.2), nn.Conv2d(6, 6, 1))
        self.pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps + self.branch(maps)
        return torch.cat((self.pool(maps).flatten(1), maps.mean((2, 3))), dim=1)


BOUNDED = {
    **NETWORKS,
    "residual": lambda: Residual().eval(),
    "resnet18": lambda: nn.Sequential(*list(torchvision_network("resnet18").children())[:5], nn.Flatten()).eval(),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_no_measured_value_exceeds_the_product_bound(name: str) -> None:
    network = BOUNDED[name]()
    bound = product_bound(network, draw(1, 3, 24, 28))
    assert bound.problem == ""
    for seed in range(3):
        images = 4 * draw(2, 3, 24, 28, seed=seed) - 2
        assert float(largest_singular_value(network, images, starts=1).values.max()) <= bound.value


def test_the_bound_of_an_orthogonal_layer_is_tight() -> None:
    turn = nn.Conv2d(6, 6, 1, bias=False)
    nn.init.orthogonal_(turn.weight.data.view(6, 6))
    bound = product_bound(nn.Sequential(turn, nn.ReLU()), draw(1, 6, 8, 8))
    assert bound.value == pytest.approx(1, abs=1e-5)
    kernel = RobustBlock(6, backend="aoc").orthogonal.eval().plain((8, 8)).kernel
    aoc = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, padding_mode="circular", bias=False)
    aoc.weight.data.copy_(kernel)
    assert 1 <= product_bound(nn.Sequential(aoc), draw(1, 3, 8, 8)).value <= 1.02


@pytest.mark.parametrize(("side", "groups"), [(1, 1), (2, 1), (3, 1), (3, 4), (5, 2)])
def test_convolution_bounds_are_above_the_exact_norm_and_near(side: int, groups: int) -> None:
    weight = torch.randn(8, 4 // groups, side, side, generator=Generator().manual_seed(0))
    layer = nn.Conv2d(4, 8, side, groups=groups, padding=side // 2, padding_mode="circular", bias=False)
    layer.weight.data.copy_(weight)
    size = (12, 13) if side % 2 else (11, 12)
    bound = convolution_bound(weight, groups=groups)
    if side % 2:
        exact = float(singular_values(layer, channels=4, size=(48, 48))[0])
        assert exact <= bound * (1 + 1e-5) <= 1.02 * exact
    layer.padding_mode = "zeros"
    zero_padded = largest_singular_value(lambda x: layer(x), torch.zeros(1, 4, *size)).values.item()
    assert zero_padded <= bound * (1 + 1e-5)
    kernel = weight.double().unflatten(0, (groups, -1))
    assert bound <= 1.02 * _reshaped(kernel) <= 1.02 * side * bound * (1 + 1e-6)


def test_an_unknown_layer_is_named() -> None:
    bound = product_bound(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), draw(1, 3, 8, 8))
    assert bound.value is None
    assert bound.problem == "not computed: node _1 (GroupNorm) has no known bound"


def test_a_kernel_must_be_one() -> None:
    with pytest.raises(ValueError, match="is needed"):
        convolution_bound(torch.zeros(3, 3, 3))
    assert math.isclose(convolution_bound(3 * torch.eye(4)), 3)
