"""Image files as tensors: every pixel format Pillow reads, turned into upright 8-bit RGB."""

import hashlib
import io
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import get_worker_info

from iqa_armor.errors import DataError, contents, file_version, reading
from iqa_armor.machine import memory_limit

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
# What decoding and preparing a pixel takes at most: copies of four channels, one of them in float64, and a float image.
PIXEL_BYTES = 48
_REMEMBERED = 2**13  # digests of files; what is beyond is read twice
_ORIENTATION = 0x0112  # EXIF tag; its values 5 to 8 turn rows into columns


@dataclass(frozen=True)
class FileImages:
    """Reader of image files by position; one that changes after it has been read once is a DataError."""

    paths: tuple[Path, ...]
    seen: dict[int, str] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, index: int) -> Tensor:
        image = read_image(self.paths[index])
        self._require_unchanged(index)
        return image

    def _require_unchanged(self, index: int) -> None:
        if self.seen.setdefault(index, digest := self.digest(index)) != digest:
            raise DataError(f"{self.paths[index]} has changed since it was first read; run again on data that stays")

    def check(self, index: int) -> tuple[int, int]:
        """Decode image `index` to its end as cheaply as its format allows; return its (height, width), upright."""
        with opened(self.paths[index]) as image:
            width, height = image.size
            # The coarsest scale at which libjpeg decodes; it still reads every byte.
            image.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
            image.load()
            _refuse_unscaled(image)
            is_turned = image.getexif().get(_ORIENTATION) in range(5, 9)
        self._require_unchanged(index)
        return (width, height) if is_turned else (height, width)

    def digest(self, index: int) -> str:
        """Return the sha256 of the bytes of image `index`, which are read again only where the file has changed."""
        path = self.paths[index]
        with reading(path, DataError):
            return _room().digests.get(file_version(path)) or _contents(path)[1]


def read_image(source: Path | str | Image.Image) -> Tensor:
    """Return the first frame of an image file, or of what Pillow has opened, as uint8 (3, H, W), upright as EXIF says.

    16-bit gray is divided by 257, CMYK has no color profile, transparency is laid on white as of a page (ours).
    """
    with nullcontext(source) if isinstance(source, Image.Image) else opened(Path(source)) as image:
        image.load()
        pixels = np.array(_rgb(ImageOps.exif_transpose(image)), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@contextmanager
def opened(source: Path | bytes, formats: Sequence[str] = tuple(FORMATS)) -> Iterator[Image.Image]:
    """Give an image file of one of Pillow's formats, or the bytes of one; what fails in the block is a DataError."""
    name = source.name if isinstance(source, Path) else "the image"
    with reading(name, DataError, says="is no image, or damaged", advice="replace it"):
        content = _contents(source)[0] if isinstance(source, Path) else source
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS and b"avif" not in content[:64]:
            try:
                from pillow_heif import register_heif_opener
            except ImportError as error:
                raise DataError(f"{name}: a HEIC image, which needs pip install 'iqa-armor[heif]'") from error
            register_heif_opener()
        Image.init()
        try:  # JPEG opens MPO
            image = Image.open(io.BytesIO(content), formats=[kind for kind in formats if kind in Image.OPEN])
        except UnidentifiedImageError as error:
            raise DataError(f"{name}: not an image in any of the formats {', '.join(formats)}") from error
        with image, _room().of(image, name):
            yield image


@contextmanager
def keeping_room() -> Iterator[None]:
    """Hold the memory of images that this thread opens until the block ends; others wait where there is too little."""
    with ExitStack() as held:
        _room().of_thread.held = held
        held.callback(setattr, _room().of_thread, "held", None)
        yield


@dataclass
class _Room:
    """What the threads of a process share: memory for images that they decode, and digests of files by version."""

    taken: int = 0
    freed: threading.Condition = field(default_factory=threading.Condition)
    of_thread: threading.local = field(default_factory=threading.local)
    digests: dict[tuple[str, int, int, int], str] = field(default_factory=dict)

    @contextmanager
    def of(self, image: Image.Image, name: str) -> Iterator[None]:
        """Hold the memory of an image until the block, or that of `keeping_room` around it, ends."""
        held, size, limit = getattr(self.of_thread, "held", None), math.prod(image.size) * PIXEL_BYTES, memory_limit()
        if size > limit:
            needs = f"{name} takes about {size / 2**30:.1f} GiB to decode, more than the {limit / 2**30:.1f} GiB"
            raise DataError(f"{needs} that work may take; make it smaller, or raise --max-memory")
        processes = getattr(get_worker_info(), "num_workers", 1)
        with self.freed:
            self.freed.wait_for(lambda: not self.taken or self.taken + size <= limit // 2 // processes)
            self.taken += size
        with ExitStack() as own:
            (held or own).callback(self._give_back, size)
            yield

    def _give_back(self, size: int) -> None:
        with self.freed:
            self.taken -= size
            self.freed.notify_all()


@cache
def _room() -> _Room:
    return _Room()


def _contents(path: Path) -> tuple[bytes, str]:
    version, content = file_version(path), contents(path, memory_limit())
    digest = hashlib.sha256(content).hexdigest()
    if len(_room().digests) < _REMEMBERED:
        _room().digests[version] = digest
    return content, digest


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
