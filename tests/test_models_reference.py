"""Full-reference models: distances that rise with the distortion, a fit that learns, and their feature smoothing."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import piq
import pytest
import torch
from conftest import small_network
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from torchvision.models import vgg
from torchvision.transforms.functional import to_pil_image

from iqa_armor.data.base import ImageSet
from iqa_armor.defenses.smoothing.feature_smoothing import FeatureSmoothing
from iqa_armor.errors import ArmorError, DataError, ModelLoadError, SurgeryError, UsageError
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import Preprocessing
from iqa_armor.models.reference import WEIGHTS, PerceptualModel, ReferenceModel, StageDistance, reference_network
from iqa_armor.recipe import Training
from iqa_armor.training.reference import fit_reference, predict_reference

EXAMPLE = Path(__file__).parents[1] / "examples" / "full_reference.py"
SIZE = Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def network(seed: int = 0) -> StageDistance:
    return StageDistance(small_network(seed), SIZE, grid=2).eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


def blurred_images(count: int) -> ImageSet:
    """Return images blended with their mean by a share that their scores fall with."""
    pristine = (255 * draw(count, 3, 32, 32)).to(torch.uint8)
    share = draw(count, seed=1)
    blended = pristine.float().lerp(pristine.float().mean((2, 3), keepdim=True), share.view(-1, 1, 1, 1))
    names = tuple(f"{index}.png" for index in range(count))
    pixels = blended.round().to(torch.uint8)
    return ImageSet(names, lambda i: pixels[i], 5 - 4 * share, references=lambda i: pristine[i])


def test_a_pristine_image_scores_highest_and_worse_ones_fall() -> None:
    model, images = network(), draw(4, 3, 32, 32)
    noise = torch.randn(images.shape, generator=Generator().manual_seed(1))
    scores = [model(images, (images + level * noise).clamp(0, 1)) for level in (0.0, 0.02, 0.1, 0.4)]
    assert all(bool((above > below).all()) for above, below in pairwise(scores))
    torch.testing.assert_close(scores[0], (model.top - 1e-4).expand(4))


def test_the_score_is_the_weighted_distance_of_pooled_maps() -> None:
    model, a, b = network(), draw(2, 3, 32, 32), draw(2, 3, 32, 32, seed=1)
    energy = torch.zeros(2)
    for raw, x, y in zip(
        model.raw, model.trunk((a - model.mean) / model.std), model.trunk((b - model.mean) / model.std), strict=True
    ):
        pooled = nn.functional.adaptive_avg_pool2d(x - y, 2).square().mean((2, 3))
        energy += pooled @ (nn.functional.softplus(raw) / len(raw))
    torch.testing.assert_close(model(a, b), -(energy + 1e-8).sqrt())


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_any_backbone_gives_four_stages(backbone: str) -> None:
    model = reference_network(backbone, Preprocessing(size=(64, 64))).eval()
    assert len(model.raw) == 4
    assert model(draw(1, 3, 64, 64), draw(1, 3, 64, 64, seed=1)).shape == (1,)


def test_the_fit_learns_and_its_weights_can_be_stored() -> None:
    model, images = network(), blurred_images(48)
    before = srocc(predict_reference(model, images), images.mos)
    losses = fit_reference(model, images, Training(epochs=4, learning_rate=3e-3, batch_size=8))
    after = predict_reference(model, images)
    assert losses[-1] < losses[0]
    assert float(srocc(after, images.mos)) > max(float(before), 0.9)
    assert float((after - images.mos).abs().mean()) < 1
    again = network(seed=5)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(predict_reference(again, images), after, rtol=0, atol=0)


def test_the_fit_can_be_repeated_and_keeps_the_norm_statistics() -> None:
    images, settings = blurred_images(9), Training(epochs=1, batch_size=4)
    first, second = network(), network()
    seen: list[int] = []
    losses = [
        fit_reference(each, images, settings, progress=lambda *told: seen.append(told[1])) for each in (first, second)
    ]
    assert losses[0] == losses[1]
    assert seen == [1, 1]
    assert not first.training
    torch.testing.assert_close(dict(first.named_buffers())["trunk.1.running_mean"], torch.zeros(16))


def test_what_cannot_be_fitted_is_refused() -> None:
    images = blurred_images(6)
    without = ImageSet(images.names, images.read, images.mos)
    with pytest.raises(DataError, match=r"with references.*kadid10k:DIR"):
        fit_reference(network(), without, Training())
    with pytest.raises(DataError, match="no references"):
        predict_reference(network(), without)
    with pytest.raises(ArmorError, match="float32, not in bf16"):
        fit_reference(network(), images, Training(precision="bf16"))
    with pytest.raises(SurgeryError, match="no maps"):
        StageDistance(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1)), SIZE)
    with pytest.raises(ValueError, match="fixed input size"):
        StageDistance(small_network(), Preprocessing(size=None))
    with pytest.raises(ValueError, match="one shape"):
        network()(draw(1, 3, 32, 32), draw(2, 3, 32, 32))


@pytest.mark.slow
def test_the_example_trains_and_certifies_on_kadid_like_data(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["dist_img,ref_img,dmos,var"]
    for scene in range(12):
        pristine = draw(3, 48, 48, seed=scene)
        for level in range(3):
            name = f"I{scene:02d}_{level}.png"
            to_pil_image(pristine.lerp(torch.full_like(pristine, 0.5), level / 4)).save(tmp_path / "images" / name)
            lines.append(f"{name},I{scene:02d}.png,{5 - level},0.1")
        to_pil_image(pristine).save(tmp_path / "images" / f"I{scene:02d}.png")
    (tmp_path / "dmos.csv").write_text("\n".join(lines))
    command = [sys.executable, str(EXAMPLE), f"kadid10k:{tmp_path}", "-o", str(tmp_path / "fr.st"), "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "local, first-order" in done.stdout
    again = reference_network()
    again.load_state_dict(load_file(tmp_path / "fr.st"))


class LinearDifference(ReferenceModel):
    """The difference of two linear features: feature smoothing of it is exact."""

    def __init__(self) -> None:
        super().__init__(Preprocessing(size=(4, 4)), name="linear")
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(48, 5, generator=Generator().manual_seed(0)))[0])

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ (self.weight * torch.tensor([3.0, 1, 1, 1, 1]))

    def compare(self, reference: Tensor, distorted: Tensor) -> Tensor:
        return (distorted - reference)[:, 0]


def test_smoothing_of_two_images_bounds_changes_of_the_distorted_one() -> None:
    model, smoothing = LinearDifference(), FeatureSmoothing(samples=500)
    reference, distorted = draw(6, 3, 4, 4), draw(6, 3, 4, 4, seed=1)
    certificate = smoothing.bind_reference(model).certify(reference, distorted, Generator().manual_seed(0))
    torch.testing.assert_close(certificate.jacobian, torch.full((6,), 3.03, dtype=torch.float64), rtol=1e-3, atol=0)
    clean, worst = model(reference, distorted), 3 * smoothing.radius
    assert bool((certificate.lower <= clean - worst).all())
    assert bool((certificate.upper >= clean + worst).all())


def test_scores_of_two_images_are_those_of_the_certificate_and_have_gradients() -> None:
    model = network()
    reference, distorted = draw(3, 3, 32, 32), draw(3, 3, 32, 32, seed=1).requires_grad_()
    smoothing = FeatureSmoothing(samples=64).calibrate(model, reference)
    bound = smoothing.bind_reference(model)
    scores = bound.scores(reference, distorted, Generator().manual_seed(0))
    certificate = bound.certify(reference, distorted, Generator().manual_seed(0))
    torch.testing.assert_close(scores.detach(), certificate.scores)
    scores.sum().backward()
    assert bool((distorted.grad.flatten(1).norm(dim=1) > 0).all())
    assert smoothing.jacobian > 0


def test_a_reference_model_is_split_in_one_place_only() -> None:
    with pytest.raises(UsageError, match="leave node=relu away"):
        FeatureSmoothing(node="relu").bind_reference(network())
    with pytest.raises(UsageError, match="jacobian=NUMBER"):
        FeatureSmoothing(mode="calibrated").bind_reference(network())


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **kwargs: pytest.fail("downloads"))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("distance", ["lpips", "dists"])
def test_piqs_distances_need_local_weights(distance: str, checkpoints: Path) -> None:
    for url in WEIGHTS[distance]:
        with pytest.raises(ModelLoadError, match=f"{distance} needs .*{Path(url).name}.*get it from https"):
            PerceptualModel(distance, size=(32, 32))
        torch.save({}, checkpoints / Path(url).name)
    with pytest.raises(ValueError, match="lpips, or dists up to 256 pixels"):
        PerceptualModel("dists", size=(300, 300))


@pytest.mark.parametrize("distance", ["lpips", "dists"])
def test_scores_are_piqs_distances_negated(distance: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = [64, 128, 256, 512, 512]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = vgg.make_layers(vgg.cfgs["D"])
        monkeypatch.setattr(piq.perceptual, "vgg16", lambda **_: SimpleNamespace(features=layers))
        torch.save({}, checkpoints / "vgg16-397923af.pth")
        torch.save([torch.rand(1, width, 1, 1) for width in widths], checkpoints / "lpips_weights.pt")
        shares = {name: torch.rand(1, 3 + sum(widths), 1, 1) for name in ("alpha", "beta")}
        torch.save(shares, checkpoints / "dists_weights.pt")
    model = PerceptualModel(distance, size=(32, 40))
    reference, distorted = draw(2, 3, 32, 40), draw(2, 3, 32, 40, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(model(reference, distorted), -model.piq(distorted, reference))
    bound = FeatureSmoothing(samples=20, sigma=0.01, confidence=0.5, steps=3).bind_reference(model)
    assert bound.certify(reference, distorted, Generator().manual_seed(0)).scores.isfinite().all()
