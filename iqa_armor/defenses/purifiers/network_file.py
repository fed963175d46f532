"""Any image-to-image network from a file: a torch.export archive or ONNX."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from iqa_armor.defenses.purifiers.archive import checked_archive
from iqa_armor.defenses.purifiers.purifier_file import existing
from iqa_armor.defenses.purifiers.sizes import on_padded
from iqa_armor.errors import NETWORK_FAILURES, ArmorError, ModelLoadError
from iqa_armor.limits import check_limits
from iqa_armor.reading import first_line


@dataclass(frozen=True)
class NetworkFile:
    """A network from a file, from images (N, 3, H, W) in [0, 1] to images of that shape, clamped to [0, 1].

    Args:
        path: A `.pt2` file of torch.export.save, or an `.onnx` file, which has no gradient: attackers take the
            identity's. TorchScript and pickles are refused, since they run code.
        multiple: What the network's sides must be multiples of; borders are repeated and cut off again. 1 to 1024.
    """

    path: str = ""
    multiple: int = 1

    def __post_init__(self) -> None:
        check_limits(self, multiple="[1, 1024]")

    def load(self) -> FileNetwork:
        """Return the network, tried on a small image; raises ArmorError where onnxruntime is missing for ONNX."""
        path = existing(self.path, owner="file")
        if path.suffix not in KINDS:
            raise ModelLoadError(
                f"{path} ends in neither .pt2 nor .onnx; TorchScript and pickled networks run code when opened, so "
                "save the network with torch.export.save(program, 'network.pt2') or as ONNX"
            )
        network = KINDS[path.suffix](path, self.multiple)
        network.probe()
        return network


class FileNetwork(nn.Module, ABC):
    """A network from a file, which runs outside of this module; its only state is the file's digest."""

    sha256: Tensor
    is_random: ClassVar[bool] = False
    is_differentiable = False
    # What running the network raises; a damaged archive may also hold expressions that cannot be read.
    failures: tuple[type[Exception], ...] = (*NETWORK_FAILURES, SyntaxError)

    def __init__(self, path: Path, multiple: int) -> None:
        super().__init__()
        self.path, self.multiple = path, multiple
        self.sides: tuple[int | None, ...] = (None, None, None, None)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
        # Tells models behind different networks apart by their weights.
        self.register_buffer("sha256", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return images (N, 3, H, W) in [0, 1]; a ModelLoadError refuses sizes that are not taken or not kept."""
        return on_padded(self._grouped, images, multiple=self.multiple)

    def _grouped(self, images: Tensor) -> Tensor:
        groups = torch.split(images, self.sides[0] or len(images))
        return torch.cat([self._checked(group) for group in groups]).to(images.dtype)

    @abstractmethod
    def _run(self, images: Tensor) -> Tensor:
        """Return what the network gives for images of sizes that it declares, or raise one of its failures."""

    def probe(self) -> None:
        """Try the network on small images; a ModelLoadError refuses NaN, and images of a batch that are mixed."""
        count, channels, height, width = self.sides
        if count not in (None, 1) or channels not in (None, 3):
            raise ModelLoadError(f"{self.path} takes {_shown(self.sides)}; export it for Nx3xHxW with N free or 1")
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(count or 2, 3, height or 64, width or 64, generator=generator)
        leaf = images.requires_grad_(self.is_differentiable)
        together = self(leaf)
        self.is_differentiable = bool(together.requires_grad)
        with torch.no_grad():
            alone = self(images[:1].detach())
        if not bool(together.isfinite().all()):
            raise ModelLoadError(f"{self.path} gives pixels that are not finite; check its weights")
        if not torch.allclose(alone, together[:1], atol=1e-3):
            raise ModelLoadError(f"{self.path} mixes the images of a batch; export it in eval mode, or for one image")

    def _checked(self, images: Tensor) -> Tensor:
        wanted, got = self.sides[2:], images.shape[-2:]
        if any(side not in (None, actual) for side, actual in zip(wanted, got, strict=True)):
            raise ModelLoadError(
                f"{self.path} takes images of {_shown(wanted)} only, got {_shown(got)}; export it with free sides"
            )
        try:
            purified = self._run(images)
        except self.failures as error:
            raise self._failed(f"fails on images {tuple(images.shape)}: {first_line(error)}") from error
        if not isinstance(purified, Tensor) or purified.shape != images.shape:
            shape = tuple(purified.shape) if isinstance(purified, Tensor) else type(purified).__name__
            raise self._failed(f"must keep the shape of images, but gave {shape} for {tuple(images.shape)}")
        return purified

    def _failed(self, says: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path} {says}; if its sides must be multiples of a number, add multiple=NUMBER")


class ExportedNetwork(FileNetwork):
    """A network of torch.export; differentiable unless its graph cuts the gradient."""

    def __init__(self, path: Path, multiple: int) -> None:
        super().__init__(path, multiple)
        archive = checked_archive(path)
        try:
            self._program: Any = torch.export.load(archive)
            names = self._program.graph_signature.user_inputs
            (entry,) = (node for node in self._program.graph.nodes if node.name in names)
            sides = tuple(side if isinstance(side, int) else None for side in entry.meta["val"].shape)
            self.sides = sides if len(sides) == 4 else (0, None, None, None)
        except self.failures as error:
            raise ModelLoadError(f"{path} holds no network of one image tensor: {first_line(error)}") from error
        self.is_differentiable = True
        # Not registered as a submodule: exported modules refuse eval().
        self._modules_by_device: dict[torch.device, Any] = {}

    def _run(self, images: Tensor) -> Tensor:
        device = images.device
        if device not in self._modules_by_device:
            from torch.export.passes import move_to_device_pass

            module = move_to_device_pass(self._program, device).module()
            self._modules_by_device[device] = module.requires_grad_(False)
        return self._modules_by_device[device](images.float())  # type: ignore[no-any-return]


class OnnxNetwork(FileNetwork):
    """A network that onnxruntime computes, on CUDA where it can; without a gradient."""

    def __init__(self, path: Path, multiple: int) -> None:
        super().__init__(path, multiple)
        if find_spec("onnxruntime") is None:
            raise ArmorError(f"{path} takes onnxruntime, not installed here; run pip install 'iqa-armor[onnx]'")
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
        self.failures = (*(getattr(state, name) for name in names), state.RuntimeException)
        self._sessions: dict[str, Any] = {}
        inputs = self._on("cpu").get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise ModelLoadError(f"{path} must take one float32 tensor (N, 3, H, W)")
        self.sides = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)

    def _run(self, images: Tensor) -> Tensor:
        session = self._on(images.device.type)
        values = images.detach().float().cpu().contiguous().numpy()
        outputs = session.run(None, {session.get_inputs()[0].name: values})
        return torch.from_numpy(outputs[0]).to(images.device)

    def _on(self, kind: str) -> Any:
        if kind not in self._sessions:
            import onnxruntime

            wanted = ("CUDAExecutionProvider", "CPUExecutionProvider") if kind == "cuda" else ("CPUExecutionProvider",)
            providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 4  # what goes wrong is raised
            try:
                self._sessions[kind] = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
            except self.failures as error:
                raise ModelLoadError(f"onnxruntime refuses {self.path}: {first_line(error)}") from error
        return self._sessions[kind]


KINDS: dict[str, type[FileNetwork]] = {".pt2": ExportedNetwork, ".onnx": OnnxNetwork}


def _shown(sides: Sequence[int | None]) -> str:
    return "x".join("?" if side is None else str(side) for side in sides)
