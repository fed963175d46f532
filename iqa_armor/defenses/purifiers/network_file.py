"""Any image-to-image network from a file: a torch.export archive or ONNX."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable

from iqa_armor.bounded import SECONDS, EndedError, worker
from iqa_armor.defenses.base import existing
from iqa_armor.defenses.purifiers.filters import on_padded
from iqa_armor.defenses.purifiers.hosted import as_bytes, as_tensor
from iqa_armor.errors import ArmorError, ModelLoadError, failing, reading
from iqa_armor.limits import Limited


@dataclass(frozen=True)
class NetworkFile(Limited):
    """A network from a file, from images (N, 3, H, W) in [0, 1] to images of that shape, clamped to [0, 1]."""

    # A `.pt2` file of torch.export.save, or an `.onnx` file, which has no gradient: attackers take the identity's.
    path: str = ""
    multiple: Annotated[int, "[1, 1024]"] = 1  # of which sides must be; borders are repeated and cut off again

    def load(self) -> FileNetwork:
        """Return the network, tried on a small image; raises ArmorError where onnxruntime is missing for ONNX."""
        path = existing(self.path, owner="file")
        if path.suffix not in (".pt2", ".onnx"):
            advice = "so save the network with torch.export.save(program, 'network.pt2') or as ONNX"
            why = "TorchScript and pickled networks run code when opened"
            raise ModelLoadError(f"{path} ends in neither .pt2 nor .onnx; {why}, {advice}")
        if path.suffix == ".onnx" and find_spec("onnxruntime") is None:
            raise ArmorError(f"{path} takes onnxruntime, not installed here; run pip install 'iqa-armor[onnx]'")
        network = FileNetwork(path, self.multiple)
        network.probe()
        return network


class FileNetwork(nn.Module):
    """A network from a file, which runs in a process of its own; the state of this module is the file's digest."""

    sha256: Tensor
    is_random: ClassVar[bool] = False

    def __init__(self, path: Path, multiple: int) -> None:
        super().__init__()
        self.path, self.multiple, self.seconds_per_value = path, multiple, 0.0
        self.is_differentiable = path.suffix == ".pt2"
        with reading(path, ModelLoadError), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        # Tells models behind different networks apart by their weights.
        self.register_buffer("sha256", torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8))
        self.hexadecimal = digest.hexdigest()
        with failing(f"{path} was not opened", (EndedError,), error=ModelLoadError, advice="export it again"):
            if path.suffix == ".pt2":
                worker("cpu").call("iqa_armor.defenses.purifiers.hosted:prepare", seconds=600)
            self.sides: tuple[int | None, ...] = tuple(self.call("describe", torch.device("cpu"))[0])

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]; a ModelLoadError refuses sizes that are not taken or not kept."""
        return on_padded(self._grouped, images, multiple=self.multiple)

    def call(self, function: str, device: torch.device, *arguments: Any, payload: bytes = b"") -> tuple[Any, bytes]:
        """Return what a function of `hosted` gives for this network, within a hundred times what the first run took."""
        network = (str(self.path.absolute()), self.hexadecimal, str(device), torch.get_num_threads())
        seconds = SECONDS + 100 * self.seconds_per_value * len(payload)
        name = f"iqa_armor.defenses.purifiers.hosted:{function}"
        return worker(device.type).call(name, network, *arguments, payload=payload, seconds=seconds)

    def run(self, images: Tensor) -> Tensor:
        """Return what the network gives for float32 images, without a gradient."""
        shape, advice = tuple(images.shape), "if its sides must be multiples of a number, add multiple=NUMBER"
        with failing(f"{self.path} fails on images {shape}", (EndedError,), error=ModelLoadError, advice=advice):
            said, content = self.call("run", images.device, list(shape), payload=as_bytes(images))
        if said.get("shape") != list(shape):
            given = said.get("kind") or tuple(said["shape"])
            raise ModelLoadError(f"{self.path} must keep the shape of images, but gave {given} for {shape}; {advice}")
        self.is_differentiable = self.is_differentiable and said["has_gradient"]
        return as_tensor(content, images.shape).to(images.device)

    def probe(self) -> None:
        """Try the network on small images; a ModelLoadError refuses NaN, and images of a batch that are mixed."""
        count, channels, height, width = self.sides
        if count not in (None, 1) or channels not in (None, 3):
            raise ModelLoadError(f"{self.path} takes {_shown(self.sides)}; export it for Nx3xHxW with N free or 1")
        images = torch.rand(count or 2, 3, height or 64, width or 64, generator=torch.Generator().manual_seed(0))
        started = time.perf_counter()
        together = self(images)
        self.seconds_per_value = (time.perf_counter() - started) / images.nbytes
        if not bool(together.isfinite().all()):
            raise ModelLoadError(f"{self.path} gives pixels that are not finite; check its weights")
        if not torch.allclose(self(images[:1]), together[:1], atol=1e-3):
            raise ModelLoadError(f"{self.path} mixes the images of a batch; export it in eval mode, or for one image")

    def _grouped(self, images: Tensor) -> Tensor:
        wanted, got = self.sides[2:], images.shape[-2:]
        if any(side not in (None, actual) for side, actual in zip(wanted, got, strict=True)):
            only = f"takes images of {_shown(wanted)} only"
            raise ModelLoadError(f"{self.path} {only}, got {_shown(got)}; export it with free sides")
        groups = torch.split(images.float(), self.sides[0] or len(images))
        found = [_Hosted.apply(each, self) if self.is_differentiable else self.run(each.detach()) for each in groups]
        return torch.cat(found).to(images.dtype)


class _Hosted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, network: FileNetwork) -> Tensor:
        ctx.save_for_backward(images)
        ctx.network = network
        return network.run(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None]:
        (images,), network = ctx.saved_tensors, ctx.network
        with failing(f"{network.path} has no gradient there", (EndedError,), error=ModelLoadError):
            payload = as_bytes(images) + as_bytes(weights[0])
            _, content = network.call("pull_back", images.device, list(images.shape), payload=payload)
        return as_tensor(content, images.shape).to(images.device), None


def _shown(sides: Sequence[int | None]) -> str:
    return "x".join("?" if side is None else str(side) for side in sides)
