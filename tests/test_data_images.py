from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iqa_armor.data.images import FileImages, read_image
from iqa_armor.errors import DataError

RED, WHITE = [255, 0, 0], [255, 255, 255]


def pixel(path: Path, row: int = 0, column: int = 0) -> list[int]:
    return read_image(path)[:, row, column].tolist()


def truncated(path: Path, *, suffix: str = ".jpg") -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = path / f"cut{suffix}"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-900])
    return file


def test_image_is_uint8_with_channels_first(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3), "red").save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 3, 5)
    assert image.dtype == torch.uint8
    assert image[:, 0, 0].tolist() == RED


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Image.new("L", (4, 4), 128), [128, 128, 128]),
        (lambda: Image.new("1", (4, 4), 1), WHITE),
        (lambda: Image.new("RGB", (4, 4), "red").quantize(4), RED),
        (lambda: Image.new("RGBA", (4, 4), (255, 0, 0, 0)), WHITE),
        (lambda: Image.new("RGBA", (4, 4), (255, 0, 0, 255)), RED),
        (lambda: Image.new("LA", (4, 4), (0, 0)), WHITE),
        (lambda: Image.fromarray(np.full((4, 4), 65535, np.uint16)), WHITE),
        (lambda: Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)), [128, 128, 128]),
    ],
    ids=["gray", "bilevel", "palette", "clear", "opaque", "clear gray", "16-bit white", "16-bit gray"],
)
def test_every_png_mode_becomes_rgb(make: Callable[[], Image.Image], expected: list[int], tmp_path: Path) -> None:
    make().save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == expected


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 255])
    image.save(tmp_path / "a.png", transparency=0)
    assert pixel(tmp_path / "a.png") == WHITE


def test_16_bit_gray_tiff_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 100 * 257, np.uint16)).save(tmp_path / "a.tif")
    assert pixel(tmp_path / "a.tif") == [100, 100, 100]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = pixel(tmp_path / "a.jpg")
    assert red > 240
    assert max(green, blue) < 15


def test_exif_orientation_turns_the_image_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, 8, 4)
    assert pixel(tmp_path / "a.png", 0, 3) == RED


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_truncated_image_is_refused_by_reading_and_by_checking(tmp_path: Path, suffix: str) -> None:
    file = truncated(tmp_path, suffix=suffix)
    with pytest.raises(DataError, match=r"^cut\."):
        read_image(file)
    with pytest.raises(DataError, match=r"^cut\."):
        FileImages((file,)).check(0)


def test_sound_images_pass_the_check(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.jpg")
    Image.new("L", (70, 30)).save(tmp_path / "b.png")
    files = FileImages((tmp_path / "a.jpg", tmp_path / "b.png"))
    files.check(0)
    files.check(1)


def test_text_under_an_image_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(DataError, match="not an image"):
        read_image(tmp_path / "a.jpg")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="8 or 16 bits"):
        read_image(tmp_path / "a.tif")
