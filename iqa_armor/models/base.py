"""The quality model: one network with its preprocessing and the range of its scores."""

import hashlib
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.errors import ModelLoadError, SettingError, reading
from iqa_armor.graph.interpret import FIXED_SIZE, notes_of
from iqa_armor.graph.trace import evaluating
from iqa_armor.limits import Limited
from iqa_armor.machine import has_channels_last
from iqa_armor.models.outputs import CHOOSE, scores_of, shown
from iqa_armor.models.training_scores import TrainingScores
from iqa_armor.registry import Entry

Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KONIQ_SIZE = (498, 664)  # height, width: what [RA] resizes every KonIQ-10k image to
WANTED = "its network must take normalised colour images (N, 3, H, W) in float32, so wrap one that takes anything else"
READER = Entry("iqa_armor.data.images:read_image", "Reads an image; named, since it stands beside the models.")


@dataclass(frozen=True)
class Preprocessing(Limited):
    """How an image becomes the input of a network."""

    size: tuple[int, int] | None = KONIQ_SIZE  # (height, width) that images are resized to; None leaves theirs alone
    interpolation: Interpolation = "bilinear"  # of that resize; "nearest-exact" is Pillow's nearest neighbour
    antialias: bool = True  # whether bilinear and bicubic resampling low-pass the image when shrinking it
    mean: tuple[float, float, float] = IMAGENET_MEAN  # per channel, subtracted from pixels in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # per channel, divided by after that, positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise SettingError(f"input size must be two positive numbers, height and width, got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            given = f"{self.mean}, {self.std}"
            raise SettingError(f"mean and std need three numbers each and std positive ones, got {given}")

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
            raise SettingError(f"a score range needs finite low < high, got {self.low} and {self.high}")

    @property
    def width(self) -> float:
        return self.high - self.low


def unwrapped(network: nn.Module) -> nn.Module:
    """Return what `torch.compile`, DataParallel and DistributedDataParallel were put around."""
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(network, "_orig_mod"):
        inner = network._orig_mod if hasattr(network, "_orig_mod") else network.module
        if not isinstance(inner, nn.Module):
            break
        network = inner
    return network


class Prepared(nn.Module):
    """A model that takes images in [0, 1] in the way of its preprocessing; `normalize` is part of it."""

    def set_preprocessing(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        # A network without storage (a file being opened) will get its parameters on the CPU.
        device = next((parameter.device for parameter in self.parameters() if not parameter.is_meta), None)
        parts = (torch.tensor(values, device=device) for values in (preprocessing.mean, preprocessing.std))
        self.mean, self.std = (nn.Buffer(values.view(3, 1, 1), persistent=False) for values in parts)

    @property
    def prepare(self) -> Callable[[Tensor], Tensor]:
        """Call it with images (N, 3, H, W) or (3, H, W) in [0, 1], or uint8, to get them at the network's size."""
        return self.preprocessing.prepare  # so that a process it is sent to gets no network

    def normalize(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] as the network's normalised input, laid in memory as this machine is told."""
        inputs = (images - self.mean) / self.std
        return inputs.contiguous(memory_format=torch.channels_last) if has_channels_last() else inputs


class QualityModel(Prepared):
    """Score float images (N, 3, H, W) in [0, 1], giving (N,) in the model's own units.

    Args:
        network: Module on normalised input (N, 3, H, W) giving (N,) or (N, 1).
        preprocessing: What `prepare` and the normalisation do.
        scale: Range of the scores, or None while it is unknown.
        higher_is_better: Direction of the scores while there is no scale, which says it itself.
        name: What reports call the model.
        arch: Name of the architecture or factory it was made by; text only.

    `files` says which files it was opened from: the name and "sha256" of the weights, with their "key" where there are
    several sets, and of the source that `--arch` names.
    """

    files: tuple[dict[str, str], ...] = ()
    training_scores: TrainingScores | None = None

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
        self.network = unwrapped(network)
        self.training = network.training  # so that restoring this model's mode never changes its network's
        self.scale, self._declared_rising = scale, higher_is_better
        self.name, self.arch = name, arch
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

        Raises ModelLoadError if the network fails on them or gives anything but one score per image.
        """
        fixed = notes_of(self.network).get(FIXED_SIZE)
        if fixed is not None and tuple(images.shape[-2:]) != tuple(fixed):
            raise ModelLoadError(
                f"{self.name} serves images of {fixed[0]}x{fixed[1]} only, since its network asks for sizes; got "
                f"{tuple(images.shape)}; `prepare` resizes images to what is recorded"
            )
        # What runs a graph prints torch's own account of a failure.
        plain = self.network.forward if isinstance(self.network, fx.GraphModule) else self.network
        says = f"fails on {images.dtype} images of shape {tuple(images.shape)}"
        advice = f"{WANTED}; without --channels-last it may serve as it is" if has_channels_last() else WANTED
        try:
            with reading(self.name, ModelLoadError, says=says, advice=advice):
                inputs = self.normalize(images)
                scores: Any = plain(inputs) if self.training else scores_of(self.network, inputs)
        except ModelLoadError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):  # the machine's failure, not the network's
                raise error.__cause__ from None  # callers may take fewer images
            raise
        if not isinstance(scores, Tensor) or scores.numel() != len(images):
            gave = f"{len(images)} images gave {shown(scores)}"
            raise ModelLoadError(f"{self.name} must give one score per image, but {gave}; {CHOOSE}")
        return scores.reshape(len(images))

    def score(self, image: Any) -> float:
        """Return the score of one image, in eval mode: a file, an image of Pillow, or a tensor (3, H, W).

        Tensors are uint8 or in [0, 1]. The image is prepared first, as `prepare` says.
        """
        pixels = image if isinstance(image, Tensor) else READER.value()(image)
        mode = evaluating(self) if self.training else nullcontext()  # in eval mode threads may share it
        with mode, torch.inference_mode():
            score = float(self(self.prepare(pixels).unsqueeze(0).to(self.mean.device)))
        if not math.isfinite(score):
            raise ModelLoadError(f"{self.name} gives a score that is not finite; check its weights and preprocessing")
        return score

    def __repr__(self) -> str:
        count, size = sum(each.numel() for each in self.parameters()), self.preprocessing.size
        taken = "images of any size" if size is None else "images of {}x{}".format(*size)
        scores = "" if self.scale is None else f", scores {self.scale.low:.4g} to {self.scale.high:.4g}"
        made = self.arch or "own network"
        return f"{type(self).__name__} {self.name!r}: {made}, {count:,} parameters, {taken}{scores}"

    def with_network(self, network: nn.Module, *, scale: ScoreScale | None) -> "QualityModel":
        kept = {"higher_is_better": self.higher_is_better, "name": self.name, "arch": self.arch}
        return QualityModel(network, self.preprocessing, scale=scale, **kept)  # type: ignore[arg-type]


def state_digest(model: nn.Module) -> str:
    """Return a digest (sha256, 16 hexadecimal digits) of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
