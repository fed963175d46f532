"""Every purifier keeps its promises: shape, range, independence, seeds, gradients, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import WORDS, photographs, seeded

from iqa_armor.defenses.base import Approximated, read_purifier
from iqa_armor.defenses.defended import Purified
from iqa_armor.errors import UsageError

DIFFERENTIABLE = [word for word in WORDS if read_purifier(word).is_differentiable]
SIZES = [(1, 1), (2, 1), (5, 3), (17, 33), (32, 48)]


@pytest.mark.parametrize("word", WORDS)
def test_photographs_stay_recognisable(word: str) -> None:
    images, purifier = photographs(size=(64, 64)), read_purifier(word)
    purified = purifier(images, seeded())
    assert not torch.equal(purified, images)
    upright = purified.flip(-1) if word == "flip" else purified
    assert (upright - images).abs().mean() < (0.5 if "levels=2" in word else 0.12)


def test_jpeg_has_a_stand_in_near_it() -> None:
    jpeg, images = read_purifier("jpeg:quality=50"), photographs(size=(33, 47))
    assert isinstance(jpeg, Approximated)
    assert (jpeg.surrogate(images) - jpeg(images, seeded())).abs().mean() < 0.01


def test_quantize_by_hand() -> None:
    images = torch.tensor([0.0, 0.2, 0.3, 1.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    purified = read_purifier("quantize:levels=3")(images, seeded())
    torch.testing.assert_close(purified[0, 0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0]))


def test_median_removes_a_single_pixel_and_keeps_the_border() -> None:
    images = torch.full((1, 3, 7, 7), 0.5)
    images[..., 0, 0] = 1.0
    torch.testing.assert_close(read_purifier("median")(images, seeded()), torch.full((1, 3, 7, 7), 0.5))


def test_rotation_by_a_right_angle_is_counter_clockwise() -> None:
    images = torch.rand(1, 3, 9, 9, generator=seeded())
    turned = read_purifier("rotate:degrees=90")(images, seeded())
    torch.testing.assert_close(turned, images.rot90(1, (-2, -1)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rotate:degrees=181", r"degrees in \[-180, 180\], got 181"),
        ("crop:share=0", r"share in \(0, 1\], got 0"),
        ("resize:factor=17", r"factor in \[0.0625, 16\], got 17"),
        ("resize:factor=nan", r"factor in \[0.0625, 16\], got nan"),
        ("resize:mode=lanczos", "mode out of nearest, bilinear, bicubic, got 'lanczos'"),
        ("blur:kernel=4", "odd kernel, got 4"),
        ("blur:sigma=0", r"sigma in \(0, 100\], got 0"),
        ("median:kernel=1", r"kernel in \[3, 101\], got 1"),
        ("unsharp:sigma=inf", r"sigma in \(0, 100\], got inf"),
        ("jpeg:quality=0", r"quality in \[1, 100\], got 0"),
        ("diffjpeg:quality=101", r"quality in \[1, 100\], got 101"),
        ("quantize:levels=1", r"levels in \[2, 256\], got 1"),
        ("noise:sigma=2", r"sigma in \(0, 1\], got 2"),
        ("noise:sigma=much", "must be float, got 'much'"),
        ("flip:axis=1", "it has none"),
        ("jepg", "did you mean jpeg"),
    ],
)
def test_refuses_with_what_is_allowed(word: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_purifier(word)


def test_a_chain_defends_a_model(make_model: object) -> None:
    words = ("jpeg:quality=60", "noise", "blur")
    model = Purified(make_model(), {word: read_purifier(word) for word in words})  # type: ignore[operator]
    images = torch.rand(2, 3, 32, 40, generator=seeded()).requires_grad_()
    (gradient,) = torch.autograd.grad(model.attacked_scores(images).sum(), images)
    assert gradient.abs().sum() > 0
    assert model.is_random


def test_libraries_are_imported_where_they_are_needed() -> None:
    code = (
        "import sys\n"
        "from iqa_armor.attacks import ATTACKS\n"
        "from iqa_armor.defenses.purifiers import PURIFIERS\n"
        "from iqa_armor.defenses.smoothing import SMOOTHERS\n"
        "assert all(each.summary() for each in (ATTACKS, PURIFIERS, SMOOTHERS))\n"
        "early = {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert all(list(each.values()) for each in (ATTACKS, PURIFIERS))\n"
        "heavy = {'kornia', 'diffusers', 'onnxruntime', 'torchvision', 'scipy', 'piq'} & set(sys.modules)\n"
        "sys.exit(f'imported {early} {heavy}' if early or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
