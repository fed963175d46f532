"""piq's LPIPS and DISTS with local weights, which are never downloaded."""

import math
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import Preprocessing
from iqa_armor.models.checkpoints import READ_ERRORS
from iqa_armor.models.reference import ReferenceModel

Perceptual = Literal["lpips", "dists"]
_VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"
_PIQ = "https://github.com/photosynthesis-team"
WEIGHTS: dict[Perceptual, tuple[str, ...]] = {
    "lpips": (_VGG, f"{_PIQ}/photosynthesis.metrics/releases/download/v0.4.0/lpips_weights.pt"),
    "dists": (_VGG, f"{_PIQ}/piq/releases/download/v0.4.1/dists_weights.pt"),
}
LARGEST_DISTS = 256  # piq shrinks larger images inside DISTS


def perceptual_network(distance: Perceptual) -> Any:  # piq's classes are untyped
    """Return piq's network of a distance with the weights in torch.hub's folder of checkpoints, read anew.

    Missing weights, which piq would download, and such that run code, which piq would let them, are a ModelLoadError.
    """
    from piq.perceptual import DISTS, LPIPS  # heavy, and needed here only

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for url in WEIGHTS[distance]:
        _check(folder / Path(url).name, url, distance)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torchvision's, for piq's old spelling
            return {"lpips": LPIPS, "dists": DISTS}[distance](reduction="none").eval()
    except READ_ERRORS as error:
        raise ModelLoadError(f"weights in {folder} do not fit {distance}: {error}") from error


def _check(path: Path, url: str, distance: Perceptual) -> None:
    if not path.is_file():
        raise ModelLoadError(f"distance {distance} needs {path}, and nothing is downloaded; get it from {url}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        raise ModelLoadError(f"{path} is damaged or runs code when opened; get it again from {url}") from error


class PerceptualModel(ReferenceModel):
    """LPIPS or DISTS as piq computes it, negated so that scores rise with quality: 0 is the highest.

    Its features are whole maps of VGG-16, millions of numbers for an image of 224 × 224, so that feature smoothing
    saves little here. The size is (height, width) of the images; at most 256 on the shorter side for DISTS, which
    shrinks larger ones.
    """

    def __init__(self, distance: Perceptual, *, size: tuple[int, int] = (224, 224)) -> None:
        if distance not in get_args(Perceptual) or (distance == "dists" and min(size) > LARGEST_DISTS):
            raise ValueError(f"lpips, or dists up to {LARGEST_DISTS} pixels, is known, got {distance!r} at {size}")
        super().__init__(Preprocessing(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), name=distance)
        self.distance = distance
        self.piq = perceptual_network(distance)
        with torch.no_grad():
            self._sizes = [tuple(maps.shape[1:]) for maps in self.piq.get_features(torch.zeros(1, 3, *size))]

    def features(self, images: Tensor) -> Tensor:
        """Return all maps side by side (N, D)."""
        return torch.cat([maps.flatten(1) for maps in self.piq.get_features(images)], dim=1)

    def compare(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Return the negated distances (N,) of features (N, D) and those of the references (N, D)."""
        distances = self.piq.compute_distance(self._maps(distorted), self._maps(reference))
        pairs = zip(distances, self.piq.weights, strict=True)
        total = torch.cat([(part * weight.to(part)).mean((2, 3)) for part, weight in pairs], dim=1).sum(1)
        return total - 1 if self.distance == "dists" else -total

    def _maps(self, features: Tensor) -> list[Tensor]:
        parts = torch.split(features, [math.prod(size) for size in self._sizes], dim=1)
        return [part.reshape(-1, *size) for part, size in zip(parts, self._sizes, strict=True)]
