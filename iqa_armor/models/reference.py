"""Full-reference models: the quality of an image beside its pristine original."""

import math
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from iqa_armor.errors import ModelLoadError, SurgeryError
from iqa_armor.graph.interpret import size_of
from iqa_armor.graph.trace import trace_shared
from iqa_armor.graph.walk import passages
from iqa_armor.models.base import Prepared, Preprocessing
from iqa_armor.models.build import torchvision_network
from iqa_armor.models.checkpoints import READ_ERRORS
from iqa_armor.models.split import part_of

PREPROCESSING = Preprocessing(size=(224, 224))
STAGES = 4
TINY = 1e-8  # keeps the slope of the root finite where an image equals its reference
Perceptual = Literal["lpips", "dists"]
_VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"
_PIQ = "https://github.com/photosynthesis-team"
WEIGHTS: dict[Perceptual, tuple[str, ...]] = {
    "lpips": (_VGG, f"{_PIQ}/photosynthesis.metrics/releases/download/v0.4.0/lpips_weights.pt"),
    "dists": (_VGG, f"{_PIQ}/piq/releases/download/v0.4.1/dists_weights.pt"),
}
LARGEST_DISTS = 256  # piq shrinks larger images inside DISTS


class ReferenceModel(Prepared, ABC):
    """Score images (N, 3, H, W) in [0, 1] beside references of the same shape, giving (N,) that rises with quality."""

    def __init__(self, preprocessing: Preprocessing, *, name: str) -> None:
        super().__init__()
        self.name = name
        self.set_preprocessing(preprocessing)

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return what is compared of prepared images, (N, D)."""

    @abstractmethod
    def compare(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Return the scores (N,) of features (N, D) beside those of the references (N, D)."""

    def forward(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Return the scores (N,) of prepared images (N, 3, H, W) in [0, 1] beside references of the same size."""
        if reference.shape != distorted.shape:
            shapes = f"{tuple(reference.shape)} and {tuple(distorted.shape)}"
            raise ValueError(f"references and images must have one shape, got {shapes}")
        return self.compare(self.features(reference), self.features(distorted))


class StageDistance(ReferenceModel):
    """Negative weighted Euclidean distance of a classifier's maps, averaged over a coarse grid, plus a constant.

    score = top − unit · sqrt(Σ_c w_c · mean over the grid of (φ_c(reference) − φ_c(distorted))²), w_c ≥ 0 learned per
    channel; a pristine image has the highest score. φ are the last maps of each of the last four sizes of a classifier
    on normalised input of a fixed size, whose trunk is shared and stays in eval mode, averaged to `grid` rows and
    columns. A SurgeryError refuses a network that cannot be traced.

    Source: after Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, eq.
    1, whose maps keep their size and are normalised over channels; the grid, which keeps features few, the root and the
    choice of maps are (ours).
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing = PREPROCESSING, *, grid: int = 4, name: str = "fr"
    ) -> None:
        super().__init__(preprocessing, name=name)
        if preprocessing.size is None or grid < 1:
            raise ValueError(f"a stage distance needs a fixed input size and grid >= 1, got {preprocessing}, {grid}")
        example = torch.zeros(1, 3, *preprocessing.size)
        self.grid = grid
        self.trunk = _stages(network.eval(), example)
        with torch.no_grad():
            widths = [stage.shape[1] for stage in self.trunk(example)]
        self.raw = nn.ParameterList(torch.full((width,), -4.0) for width in widths)
        self.top = nn.Parameter(torch.zeros(()))
        self.unit, self.offset = nn.Buffer(torch.ones(())), nn.Buffer(torch.zeros(()))

    def features(self, images: Tensor) -> Tensor:
        """Return the stages' maps averaged to the grid, side by side (N, D); each channel's cells are in a row."""
        stages = self.trunk(self.normalize(images))
        return torch.cat([functional.adaptive_avg_pool2d(stage, self.grid).flatten(1) for stage in stages], dim=1)

    def compare(self, reference: Tensor, distorted: Tensor) -> Tensor:
        weights = torch.cat([functional.softplus(raw) / len(raw) for raw in self.raw])
        energy = (reference - distorted).square().view(len(distorted), len(weights), -1).mean(2)
        learned = self.top - torch.sqrt(energy @ weights + TINY)
        return self.offset + self.unit * learned

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the trunk, whose statistics and dropout stay those of eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self


def reference_network(
    backbone: str = "resnet18", preprocessing: Preprocessing = PREPROCESSING, *, grid: int = 4
) -> StageDistance:
    """Return the built-in full-reference network `fr`, with random weights, on one of `models.TORCHVISION`."""
    return StageDistance(torchvision_network(backbone), preprocessing, grid=grid, name=f"fr-{backbone}")


def _stages(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return the part of a network that gives the last map of each of the last sizes, through which all passes."""
    traced = trace_shared(network, example)
    last: dict[tuple[int, ...], fx.Node] = {}
    for node in passages(traced.graph)[1:]:
        size = size_of(node) or ()
        if len(size) == 4 and min(size[2:]) > 1:
            last[size[2:]] = node
    if not last:
        raise SurgeryError(f"{type(network).__name__} has no maps through which everything passes to compare images by")
    nodes, ends = list(traced.graph.nodes), tuple(last.values())[-STAGES:]
    return part_of(network, nodes[: nodes.index(ends[-1]) + 1], ends, name="Trunk").eval()


def perceptual_network(distance: Perceptual) -> Any:  # piq's classes are untyped
    """Return piq's network with weights from torch.hub's folder; a ModelLoadError if they are missing or run code."""
    from piq.perceptual import DISTS, LPIPS  # heavy, and needed here only

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for url in WEIGHTS[distance]:
        path = folder / Path(url).name
        if not path.is_file():
            raise ModelLoadError(f"distance {distance} needs {path}, and nothing is downloaded; get it from {url}")
        try:
            with warnings.catch_warnings(action="ignore"):
                torch.load(path, map_location="cpu", weights_only=True)
        except READ_ERRORS as error:
            raise ModelLoadError(f"{path} is damaged or runs code when opened; get it again from {url}") from error
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # torchvision's, for piq's old spelling
            return {"lpips": LPIPS, "dists": DISTS}[distance](reduction="none").eval()
    except READ_ERRORS as error:
        raise ModelLoadError(f"weights in {folder} do not fit {distance}: {error}") from error


class PerceptualModel(ReferenceModel):
    """LPIPS or DISTS as piq computes it, negated so that scores rise with quality: 0 is the highest.

    Its features, whole maps of VGG-16, are so many that feature smoothing saves little. The size is (height, width) of
    the images; at most 256 on the shorter side for DISTS, which shrinks larger ones.
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
        return torch.cat([maps.flatten(1) for maps in self.piq.get_features(images)], dim=1)

    def compare(self, reference: Tensor, distorted: Tensor) -> Tensor:
        distances = self.piq.compute_distance(self._maps(distorted), self._maps(reference))
        pairs = zip(distances, self.piq.weights, strict=True)
        total = torch.cat([(part * weight.to(part)).mean((2, 3)) for part, weight in pairs], dim=1).sum(1)
        return total - 1 if self.distance == "dists" else -total

    def _maps(self, features: Tensor) -> list[Tensor]:
        parts = torch.split(features, [math.prod(size) for size in self._sizes], dim=1)
        return [part.reshape(-1, *size) for part, size in zip(parts, self._sizes, strict=True)]
