"""Image files as tensors: every pixel format Pillow reads, turned into upright 8-bit RGB."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from iqa_armor.errors import DataError

# What is opened, in Pillow's names, with the suffixes by which folders are searched; no other decoder is tried.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "HEIF": (".heic", ".heif", ".hif"),
}
EXTENSIONS = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# What Pillow's decoders raise on broken files, found over the years by its fuzzers.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_ORIENTATION = 0x0112  # EXIF tag; its values 5 to 8 turn rows into columns


@dataclass(frozen=True)
class FileImages:
    """Reader of image files by position."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> Tensor:
        """Return image `index` as uint8 (3, H, W)."""
        return read_image(self.paths[index])

    def check(self, index: int) -> tuple[int, int]:
        """Decode image `index` to its end as cheaply as its format allows; return its (height, width), upright."""
        try:
            with open_image(self.paths[index]) as image:
                width, height = image.size
                # The coarsest scale at which libjpeg decodes; it still reads every byte.
                image.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
                image.load()
                _refuse_unscaled(image)
                is_turned = image.getexif().get(_ORIENTATION) in range(5, 9)
        except _BROKEN as error:
            raise _unreadable(self.paths[index], error) from error
        return (width, height) if is_turned else (height, width)


def open_image(path: Path) -> Image.Image:
    """Return an image file whose pixels are not decoded yet; the only place that opens one.

    What it raises, and decoding later, is among what Pillow raises; HEIC without its decoder is a DataError.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and b"avif" not in start:
        _add_heif(path)
    Image.init()
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])  # JPEG opens MPO


def _add_heif(path: Path) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise DataError(f"{path.name}: it is a HEIC image, which needs pip install 'iqa-armor[heif]'") from error
    register_heif_opener()


def read_image(path: Path | str) -> Tensor:
    """Return an image file as uint8 (3, H, W), upright as its EXIF orientation says.

    Gray is repeated, palettes are looked up, 16-bit gray is divided by 257, CMYK is converted without a color profile,
    and transparency is laid on white, the color of an empty page (ours). Of several frames the first is taken. A file
    that cannot be decoded is a DataError.
    """
    try:
        with open_image(Path(path)) as image:
            image.load()
            pixels = np.array(_rgb(ImageOps.exif_transpose(image)), dtype=np.uint8)
    except _BROKEN as error:
        raise _unreadable(Path(path), error) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _rgb(image: Image.Image) -> Image.Image:
    _refuse_unscaled(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(deep.clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _refuse_unscaled(image: Image.Image) -> None:
    """Refuse pixel formats whose white is not known; 16-bit PNG is "I" in older Pillow versions."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ValueError(f"pixels are 32-bit (mode {image.mode}); save the image with 8 or 16 bits")


def _unreadable(path: Path, error: Exception) -> DataError:
    known = f"it is not an image in any of the formats {', '.join(FORMATS)}"
    reason = known if isinstance(error, UnidentifiedImageError) else str(error)
    return DataError(f"{path.name}: {reason or type(error).__name__}")
