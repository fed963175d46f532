from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iqa_armor.data.images import FORMATS, FileImages, read_image
from iqa_armor.data.specs import open_dataset
from iqa_armor.errors import DataError
from iqa_armor.pipeline.score import find_images

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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_as_its_pixels_say(tmp_path: Path, suffix: str, orientation: int) -> None:
    plain = Image.new("RGB", (48, 32), "white")
    plain.paste("red", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a{suffix}"
    plain.save(file, exif=exif)
    found = read_image(file)
    turned = orientation > 4
    assert found.shape == ((3, 48, 32) if turned else (3, 32, 48))
    assert FileImages((file,)).check(0) == found.shape[1:]
    # EXIF 2.3, tag 274: where the first row and the first column of the stored picture are shown.
    bottom, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    corner = found[:, -8 if bottom else 8, -8 if right else 8].tolist()
    assert corner[0] > 200
    assert max(corner[1:]) < 60


SAVED_AS = {"MPO": "JPEG"}  # a JPEG with further pictures behind the first
EVERY = [(name, suffix) for name, suffixes in FORMATS.items() for suffix in suffixes]


@pytest.mark.parametrize(("name", "suffix"), EVERY, ids=lambda value: value)
def test_folders_take_every_format_that_a_file_may_have(tmp_path: Path, name: str, suffix: str) -> None:
    if name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file = tmp_path / f"a{suffix.upper()}"
    Image.new("RGB", (16, 16), "red").save(file, SAVED_AS.get(name, name))
    assert read_image(file)[0].min() > 200
    assert open_dataset(f"folder:{tmp_path}").splits["test"].names == (file.name,)
    assert find_images([tmp_path]) == [file]


def test_heic_without_its_decoder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x1cftypheic" + bytes(64))
    for read in (read_image, lambda path: FileImages((path,)).check(0)):
        with pytest.raises(DataError, match=r"a\.jpg: a HEIC image, which needs pip install 'iqa-armor\[heif\]'"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"DDS |\0\0\0", b"BLP2", b"8BPS\0\x01", b"%PDF-1.7"])
def test_decoders_that_are_not_named_are_not_tried(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(start + bytes(200))
    with pytest.raises(DataError, match=r"a\.jpg: not an image in any of the formats AVIF, BMP"):
        read_image(tmp_path / "a.jpg")


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
