"""The quality model: one network with its preprocessing and the range of its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.errors import NETWORK_FAILURES, ModelLoadError

Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KONIQ_SIZE = (498, 664)  # height, width: what [RA] resizes every KonIQ-10k image to


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Args:
        size: (height, width) every image is resized to, or None to leave its size alone.
        interpolation: Resampling of that resize; "nearest-exact" is Pillow's nearest neighbour.
        antialias: Whether bilinear and bicubic resampling low-pass the image when shrinking it.
        mean: Per-channel mean subtracted from pixels in [0, 1].
        std: Per-channel divisor after that, positive.
    """

    size: tuple[int, int] | None = KONIQ_SIZE
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"input size must be two positive numbers, height and width, got {self.size}")
        if self.interpolation not in get_args(Interpolation):
            allowed = ", ".join(get_args(Interpolation))
            raise ValueError(f"interpolation must be one of {allowed}, got {self.interpolation!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std need three numbers each and std positive ones, got {self.mean}, {self.std}")

    def prepare(self, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) or (3, H, W) in [0, 1] at the recorded size; uint8 is scaled."""
        floats = images.float() / 255 if images.dtype == torch.uint8 else images
        return self.resize(floats.unsqueeze(0)).squeeze(0) if floats.ndim == 3 else self.resize(floats)

    def resize(self, images: Tensor) -> Tensor:
        """Return float images (N, 3, H, W) in [0, 1] at the recorded size; differentiable."""
        if self.size is None or tuple(images.shape[-2:]) == tuple(self.size):
            return images
        smooth = self.interpolation in ("bilinear", "bicubic")
        options = {"align_corners": False, "antialias": self.antialias} if smooth else {}
        resized = functional.interpolate(images, size=self.size, mode=self.interpolation, **options)
        return resized.clamp(0, 1)  # bicubic overshoots


@dataclass(frozen=True)
class ScoreScale:
    """The range of a model's own predictions on clean training images, in its units; finite, `low` below `high`."""

    low: float
    high: float
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if not (self.low < self.high and abs(self.low) < float("inf") and abs(self.high) < float("inf")):
            raise ValueError(f"a score range needs finite low < high, got {self.low} and {self.high}")

    @property
    def width(self) -> float:
        """Length of the range."""
        return self.high - self.low


class Prepared(nn.Module):
    """A model that takes images in [0, 1] in the way of its preprocessing; `normalize` is part of it."""

    mean: Tensor
    std: Tensor

    def set_preprocessing(self, preprocessing: Preprocessing) -> None:
        """Take images in another way from now on, in place."""
        self.preprocessing = preprocessing
        # A network without storage (a file being opened) will get its parameters on the CPU.
        device = next((parameter.device for parameter in self.parameters() if not parameter.is_meta), None)
        for part, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(part, torch.tensor(values, device=device).view(3, 1, 1), persistent=False)

    @property
    def prepare(self) -> Callable[[Tensor], Tensor]:
        """Call it with images (N, 3, H, W) or (3, H, W) in [0, 1], or uint8, to get them at the network's size.

        It is the method of the preprocessing, so that a process it is sent to gets no network.
        """
        return self.preprocessing.prepare

    def normalize(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] as the network's normalised input."""
        return (images - self.mean) / self.std


class QualityModel(Prepared):
    """Score float images (N, 3, H, W) in [0, 1], giving (N,) in the model's own units.

    Args:
        network: Module on normalised input (N, 3, H, W) giving (N,) or (N, 1).
        preprocessing: What `prepare` and the normalisation do.
        scale: Range of the scores, or None while it is unknown.
        higher_is_better: Direction of the scores while there is no scale, which says it itself.
        name: What reports call the model.
        arch: Name of the architecture or factory it was made by; text only.

    `files` says which files it was opened from: the name, "sha256" and, where there are several, the "key" of each.
    """

    files: tuple[dict[str, str], ...] = ()

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None = None,
        *,
        scale: ScoreScale | None = None,
        higher_is_better: bool = True,
        name: str = "model",
        arch: str = "",
    ) -> None:
        super().__init__()
        self.network = network
        self.training = network.training  # so that restoring this model's mode never changes its network's
        self.scale = scale
        self._declared_rising = higher_is_better
        self.name = name
        self.arch = arch
        self.set_preprocessing(preprocessing or Preprocessing())

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score means better quality: what the scale says, or was declared without one."""
        return self._declared_rising if self.scale is None else self.scale.higher_is_better

    @higher_is_better.setter
    def higher_is_better(self, rising: bool) -> None:
        self._declared_rising = rising
        self.scale = self.scale and replace(self.scale, higher_is_better=rising)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N,) of prepared images (N, 3, H, W) in [0, 1].

        Raises:
            ModelLoadError: If the network fails on them or gives anything but one score per image.
        """
        try:
            scores = self.network(self.normalize(images))
        except torch.OutOfMemoryError:  # the machine's failure, not the network's; callers may take fewer images
            raise
        except NETWORK_FAILURES as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelLoadError(
                f"{self.name} fails on {images.dtype} images of shape {tuple(images.shape)}: {reason}; its network "
                "must take normalised colour images (N, 3, H, W) in float32, so wrap one that takes anything else"
            ) from error
        if not isinstance(scores, Tensor) or scores.numel() != len(images):
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ModelLoadError(
                f"{self.name} must give one score per image, but {len(images)} images gave {shape}; "
                "wrap it so that its forward returns a tensor (N,) or (N, 1)"
            )
        return scores.reshape(len(images))

    def with_network(self, network: nn.Module, *, scale: ScoreScale | None) -> QualityModel:
        """Return a new model around `network` with this one's preprocessing and names."""
        kept = {"higher_is_better": self.higher_is_better, "name": self.name, "arch": self.arch}
        return QualityModel(network, self.preprocessing, scale=scale, **kept)  # type: ignore[arg-type]


def state_digest(model: nn.Module) -> str:
    """Return a digest (sha256, 16 hexadecimal digits) of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
