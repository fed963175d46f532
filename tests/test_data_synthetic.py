from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest
import torch

from iqa_armor.data.base import SPLITS, Dataset
from iqa_armor.data.scenes import render_scene
from iqa_armor.data.specs import open_dataset
from iqa_armor.data.synthetic import (
    DISTORTIONS,
    IMAGES_PER_SCENE,
    distort,
    make_scene,
    parse_settings,
    reference_scores,
    stacked,
)
from iqa_armor.errors import DataError

SPEC = "synthetic:scenes=4,size=64x96"
SEVERITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@cache
def generated(seed: int = 0) -> Dataset:
    return open_dataset(SPEC, seed=seed)


def digest(dataset: Dataset) -> str:
    found = hashlib.sha256(dataset.fingerprint.encode())
    for split in SPLITS:
        for image in dataset.splits[split]:
            found.update(image.numpy().tobytes())
    return found.hexdigest()


def scenes_of(dataset: Dataset, split: str) -> set[str]:
    return {name.split("/")[0] for name in dataset.splits[split].names}  # type: ignore[index]


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    again = open_dataset(SPEC, seed=0)
    assert digest(generated()) == digest(again)
    assert digest(generated()) != digest(generated(seed=1))


def test_scores_do_not_depend_on_the_number_of_threads() -> None:
    pixels = make_scene(parse_settings("size=64x96"), 1).pixels
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(reference_scores(pixels, pixels[:1]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_scene_does_not_depend_on_how_many_there_are() -> None:
    dataset = generated()
    scene = make_scene(parse_settings("scenes=99,size=64x96"), 2)
    for split in SPLITS:
        names = dataset.splits[split].names
        if scene.names[0] in names:
            assert torch.equal(dataset.splits[split][names.index(scene.names[0])], scene.pixels[0])
            return
    pytest.fail("scene 2 is in no split")


def test_seed_of_the_spec_wins_over_the_argument() -> None:
    assert parse_settings("seed=3", seed=5).seed == 3
    assert parse_settings("48", seed=5).seed == 5


def test_scenes_are_split_disjointly() -> None:
    found = [scenes_of(generated(), split) for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found)) == 4
    assert [len(scenes) for scenes in found] == [2, 1, 1]


def test_every_scene_has_one_pristine_image_that_scores_100() -> None:
    images = generated().splits["training"]
    assert len(images) == 2 * IMAGES_PER_SCENE
    assert images.mos is not None
    pristine = [name.endswith("/pristine") for name in images.names]
    assert sum(pristine) == 2
    assert (images.mos[pristine] == 100).all()
    assert (images.mos[[not is_pristine for is_pristine in pristine]] < 100).all()
    assert images.mos.min() >= 0
    assert images.mos.std() > 10
    assert images[0].shape == (3, 64, 96)
    assert generated().is_synthetic


def test_there_are_at_least_ten_distortions() -> None:
    assert len(DISTORTIONS) >= 10
    assert 1 + len(DISTORTIONS) == IMAGES_PER_SCENE


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_score_falls_with_the_severity_of_every_distortion(kind: str) -> None:
    for seed in (0, 1):
        scene = render_scene(np.random.default_rng(seed), 96, 128)
        graded = [distort(scene, kind, severity=s, rng=np.random.default_rng(7)) for s in SEVERITIES]
        scores = reference_scores(stacked(graded), stacked([scene]))
        assert (scores.diff() < 0).all()
        assert scores[0] < 100
        assert scores[-1] < scores[0] - 20


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_distortions_keep_size_and_leave_the_original_alone(kind: str) -> None:
    scene = render_scene(np.random.default_rng(3), 64, 80)
    before = scene.copy()
    distorted = distort(scene, kind, severity=0.5, rng=np.random.default_rng(0))
    assert (distorted.shape, distorted.dtype) == (scene.shape, scene.dtype)
    assert (scene == before).all()
    assert (distorted != scene).any()


def test_wrong_distortion_arguments_are_refused() -> None:
    scene = np.zeros((64, 64, 3), np.uint8)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown distortion 'fog'"):
        distort(scene, "fog", severity=0.5, rng=rng)
    with pytest.raises(ValueError, match=r"severity must be in \[0, 1\]"):
        distort(scene, "jpeg", severity=1.5, rng=rng)


def test_scenes_have_the_power_spectrum_of_natural_images() -> None:
    slopes = []
    for seed in range(16):
        gray = render_scene(np.random.default_rng(seed), 128, 128).mean(-1) / 255
        window = np.outer(np.hanning(128), np.hanning(128))
        power = np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(128) * 128, np.fft.fftfreq(128) * 128))
        bins = [power[(radius >= r) & (radius < r * 1.3)].mean() for r in (4, 8, 16, 32)]
        slopes.append(np.polyfit(np.log([4, 8, 16, 32]), np.log(bins), 1)[0])
    # Photographs measured in the same way: -2.6 in the median, from -3.4 to -1.9.
    assert -3.4 < np.median(slopes) < -1.9


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", (48, 192, 256)), ("12", (12, 192, 256)), (" scenes=5 , size=64X96 ", (5, 64, 96))],
)
def test_settings_are_read(text: str, expected: tuple[int, int, int]) -> None:
    settings = parse_settings(text)
    assert (settings.scenes, settings.height, settings.width) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenes=2", "scenes must be from 3"),
        ("size=32x64", "height must be from 64"),
        ("size=64", "size=64 cannot be read"),
        ("many", "scenes=many cannot be read"),
        ("colour=3", "unknown setting 'colour'; known are scenes, size"),
        ("scenes=99999", "to 2000, got 99999"),
    ],
)
def test_wrong_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(f"synthetic:{text}")


def test_progress_counts_scenes() -> None:
    seen: list[tuple[int, int]] = []
    open_dataset("synthetic:scenes=3,size=64x64", progress=lambda _, done, total, __="": seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
