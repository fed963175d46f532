"""What is special to each of the attacks that care for the look of the image."""

import math
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import piq.perceptual
import pytest
import torch
from torch import Generator, Tensor, nn
from torchvision.models import vgg

from iqa_armor.attacks.perceptual import SSAH, KorhonenYou, Zhang, edge_map, low_band
from iqa_armor.attacks.pgd import MADC, PGD
from iqa_armor.attacks.transforms import PIECES, AdvCF, StAdv, apply_curve, project_curve, roughness, warp
from iqa_armor.errors import ModelLoadError
from iqa_armor.metrics.fidelity import ssim
from iqa_armor.models.reference import WEIGHTS


def draw(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(4))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(0)
    ).eval()


@pytest.mark.parametrize("size", [(16, 16), (7, 1), (1, 9), (223, 97)])
def test_warp_without_flow_keeps_every_bit(size: tuple[int, int]) -> None:
    images = draw(2, 3, *size)
    assert torch.equal(warp(images, torch.zeros(2, 2, *size)), images)


def test_warp_by_hand() -> None:
    images = torch.tensor([[0.0, 1.0, 4.0], [10.0, 11.0, 14.0]]).expand(1, 3, 2, 3)
    right = torch.tensor([0.5, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 3)
    down = torch.tensor([0.0, 0.25]).reshape(1, 2, 1, 1).expand(1, 2, 2, 3)
    assert torch.equal(warp(images, right)[0, 0], torch.tensor([[0.5, 2.5, 4.0], [10.5, 12.5, 14.0]]))
    assert torch.equal(warp(images, down)[0, 0], torch.tensor([[2.5, 3.5, 6.5], [10.0, 11.0, 14.0]]))


def test_flow_has_a_gradient_at_zero_up_to_the_border() -> None:
    flow = torch.zeros(1, 2, 4, 5, requires_grad=True)
    steps = torch.arange(20.0).reshape(1, 1, 4, 5)
    (gradient,) = torch.autograd.grad(warp(steps, flow).sum(), flow)
    assert torch.equal(gradient[0, 0], torch.ones(4, 5))
    assert torch.equal(gradient[0, 1], torch.full((4, 5), 5.0))
    (gradient,) = torch.autograd.grad(roughness(flow).sum(), flow)
    assert torch.equal(gradient, torch.zeros_like(flow))


def test_roughness_by_hand() -> None:
    flow = torch.full((2, 2, 5, 4), 0.7)
    flow[1, :, 2, 1] += torch.tensor([3.0, 4.0])  # 5 away from each of four neighbours, counted from both sides
    torch.testing.assert_close(roughness(flow), torch.tensor([0.0, 8 * 5 / 20]), rtol=1e-3, atol=0)


def displacements(attack: StAdv, model: nn.Module) -> Tensor:
    """Return the flow (2, H, W) of an attack on an image whose values are its coordinates."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    places = torch.stack([columns, rows, 12 + 12 * torch.sin(rows * columns / 5)]) / 24
    return (attack(model, places[None], Generator())[0] - places)[:2] * 24


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_displacements_stay_within_the_budget(epsilon: float, model: nn.Module) -> None:
    lengths = displacements(StAdv(epsilon=epsilon, smoothness=0.0, learning_rate=0.5), model).norm(dim=0)
    assert 0.9 * epsilon < lengths.max() <= epsilon + 1e-5


def test_smoothness_makes_flows_smooth(model: nn.Module) -> None:
    free, smooth = (displacements(StAdv(smoothness=tau), model)[None] for tau in (0.0, 0.2))
    assert roughness(smooth) / smooth.norm() < 0.7 * roughness(free) / free.norm()


def test_edge_map_by_hand() -> None:
    images = torch.zeros(1, 3, 5, 6)
    images[..., 3:] = 0.5
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]).expand(1, 1, 5, 6)
    torch.testing.assert_close(edge_map(images), expected)


def test_only_edges_are_changed_and_an_image_without_edges_is_not(model: nn.Module) -> None:
    images = torch.full((2, 3, 12, 12), 0.4)
    images[0, :, :, 6:] = 0.6
    attacked = KorhonenYou()(model, images, Generator())
    changed = (attacked != images).any(1)
    assert changed[0, :, 5:7].any()
    assert not changed[0, :, :5].any()
    assert not changed[0, :, 7:].any()
    assert torch.equal(attacked[1], images[1])


def test_madc_reaches_the_best_image_of_its_error_for_a_linear_score() -> None:
    images, slope = 0.4 + 0.2 * draw(2, 3, 8, 9), torch.randn(3, 8, 9, generator=Generator().manual_seed(0))
    attacked = MADC(epsilon=0.02, steps=3)(lambda x: (x * slope).sum((1, 2, 3)), images, Generator())
    change = attacked - images
    torch.testing.assert_close(change.square().mean((1, 2, 3)).sqrt(), torch.full((2,), 0.02))
    gains, largest = (change * slope).sum((1, 2, 3)), 0.02 * math.sqrt(slope.numel()) * slope.norm()
    torch.testing.assert_close(gains, largest.expand(2), rtol=1e-4, atol=0)


def test_low_band_is_half_the_haar_coefficients() -> None:
    images = draw(1, 3, 4, 5)
    padded = torch.cat([images, images[..., -1:]], 3)
    haar = (padded[..., ::2, ::2] + padded[..., 1::2, ::2] + padded[..., ::2, 1::2] + padded[..., 1::2, 1::2]) / 2
    torch.testing.assert_close(low_band(images), haar / 2)


def test_ssah_leaves_low_frequencies_alone(model: nn.Module) -> None:
    images = draw(3, 3, 21, 18)

    def low_change(attacked: Tensor) -> Tensor:
        return (low_band(attacked) - low_band(images)).abs().mean((1, 2, 3))

    spared = SSAH(epsilon=8 / 255)(model, images, Generator())
    steps = range(1, 9)
    with torch.no_grad():
        gains = model(spared) - model(images)
        for rival in (PGD(epsilon=8 / 255, steps=count)(model, images, Generator()) for count in steps):
            as_strong = model(rival) - model(images) >= gains
            assert (low_change(spared) < low_change(rival))[as_strong].all()
    assert as_strong.all()  # eight steps are more than SSAH gains, so every image was compared
    assert (low_change(spared) < 0.5 * low_change(rival)).all()


def test_curve_by_hand() -> None:
    rises = torch.ones(1, 3, PIECES)
    rises[:, :, : PIECES // 2], rises[:, :, PIECES // 2 :] = 0.5, 1.5
    values = torch.tensor([0.0, 0.1, 0.5, 0.7, 1.0]).expand(1, 3, 1, 5)
    expected = torch.tensor([0.0, 0.05, 0.25, 0.55, 1.0]).expand(1, 3, 1, 5)
    torch.testing.assert_close(apply_curve(values, rises), expected)
    assert torch.equal(apply_curve(values, torch.ones(1, 3, PIECES)), values)


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.3, 1.0])
def test_projected_curves_increase_and_stay_close(strength: float) -> None:
    rises = project_curve(3 * torch.randn(4, 3, PIECES, generator=Generator().manual_seed(0)), strength)
    curve = rises.double().cumsum(2) / PIECES
    assert (curve.diff(dim=2) >= -1e-6).all()
    torch.testing.assert_close(curve[..., -1], torch.ones(4, 3).double(), rtol=0, atol=1e-6)
    identity = torch.arange(1, PIECES + 1) / PIECES
    assert (curve - identity).abs().max() <= strength + 1e-6


def test_advcf_keeps_the_order_of_values_and_the_ends(model: nn.Module) -> None:
    images = draw(2, 3, 16, 16)
    images[..., 0], images[..., 1], images[..., 2] = 0, 1, 0.25
    attacked = AdvCF(strength=0.3)(model, images, Generator())
    order = images.flatten(2).argsort(2)
    assert (attacked.flatten(2).gather(2, order).diff(dim=2) >= -1e-6).all()
    assert (attacked[..., 2] == attacked[..., :1, 2]).all()
    torch.testing.assert_close(attacked[..., :2], images[..., :2], rtol=0, atol=1e-6)
    assert not torch.equal(attacked, images)


def test_advcf_has_an_infinite_budget_that_cannot_be_set(model: nn.Module) -> None:
    images = draw(1, 3, 16, 16)
    assert AdvCF().epsilon == math.inf
    assert "epsilon" not in {field.name for field in fields(AdvCF)}
    assert torch.equal(AdvCF(strength=0.0)(model, images, Generator()), images)


def test_zhang_pays_for_the_distance(model: nn.Module) -> None:
    images = draw(3, 3, 24, 21)
    free, priced = (ssim(images, Zhang(weight=weight)(model, images, Generator())) for weight in (0.0, 10.0))
    assert (priced > free).all()


@pytest.mark.parametrize(("distance", "least"), [("ssim", 11), ("lpips", 32), ("dists", 16)])
def test_zhang_refuses_images_too_small_for_the_distance(distance: str, least: int, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"{distance} needs at least {least}×{least} pixels"):
        Zhang(distance=distance)(model, draw(1, 3, 40, least - 1), Generator())


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **kwargs: pytest.fail("downloads"))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("distance", ["lpips", "dists"])
def test_zhang_downloads_no_weights(distance: str, checkpoints: Path, model: nn.Module) -> None:
    for url in WEIGHTS[distance]:
        with pytest.raises(ModelLoadError, match=f"{distance} needs .*{Path(url).name}.*get it from https"):
            Zhang(distance=distance)(model, draw(1, 3, 32, 32), Generator())
        torch.save({}, checkpoints / Path(url).name)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("never"),)


@pytest.mark.parametrize("content", [Hostile(), None])
def test_zhang_refuses_weights_that_run_code_or_are_damaged(
    content: object, checkpoints: Path, model: nn.Module
) -> None:
    torch.save(content, checkpoints / "vgg16-397923af.pth")
    if content is None:
        (checkpoints / "vgg16-397923af.pth").write_text("hello world")
    with pytest.raises(ModelLoadError, match="damaged or runs code"):
        Zhang(distance="lpips")(model, draw(1, 3, 32, 32), Generator())
    assert not Path("never").exists()


@pytest.mark.parametrize("distance", ["lpips", "dists"])
def test_zhang_attacks_with_local_weights(
    distance: str, checkpoints: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = [64, 128, 256, 512, 512]
    features = vgg.make_layers(vgg.cfgs["D"])
    monkeypatch.setattr(piq.perceptual, "vgg16", lambda **_: SimpleNamespace(features=features))
    torch.save({}, checkpoints / "vgg16-397923af.pth")
    torch.save([torch.rand(1, width, 1, 1) for width in widths], checkpoints / "lpips_weights.pt")
    shares = {name: torch.rand(1, 3 + sum(widths), 1, 1) for name in ("alpha", "beta")}
    torch.save(shares, checkpoints / "dists_weights.pt")
    images = draw(2, 3, 35, 32)
    attacked = Zhang(distance=distance, steps=3)(model, images, Generator())
    assert (attacked - images).abs().max() <= 10 / 255 + 1e-7
    with torch.no_grad():
        assert (model(attacked) > model(images)).all()
