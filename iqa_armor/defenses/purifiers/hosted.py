"""What runs a network from a file, in a process of its own: opened once, called with images as plain bytes."""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iqa_armor.defenses.purifiers.archive import checked_archive
from iqa_armor.errors import ModelLoadError, reading
from iqa_armor.machine import onnx_session

OPEN_NETWORKS = 4
Name = tuple[str, str, str, int]  # path and SHA-256 of a network's file, device and threads to run it with
Run = Callable[[Tensor], Tensor]
Sides = tuple[int | None, ...]


def prepare(_: bytes) -> tuple[None, bytes]:
    """Import what opens networks of torch.export, which takes seconds of no file's time."""
    for name in ("torch.export.passes", "torch.export.pt2_archive._package", "torch._inductor.codecache"):
        import_module(name)
    return None, b""


def describe(network: Name, _: bytes) -> tuple[list[int | None], bytes]:
    """Return the sides (N, C, H, W) of images that a network declares, None where a side is free."""
    return list(_named(*network)[0]), b""


def run(network: Name, shape: Sequence[int], content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return shape and bytes of what a network gives for float32 images, and whether that has a gradient."""
    images = as_tensor(content, shape).to(network[2]).requires_grad_()
    purified = _named(*network)[1](images)
    if not isinstance(purified, Tensor):
        return {"kind": type(purified).__name__}, b""
    return {"shape": list(purified.shape), "has_gradient": purified.requires_grad}, as_bytes(purified)


def pull_back(network: Name, shape: Sequence[int], content: bytes) -> tuple[None, bytes]:
    """Return the gradient at images of what comes back of them, weighted by a gradient; both stand in the bytes."""
    half = len(content) // 2
    images, weights = (as_tensor(part, shape).to(network[2]) for part in (content[:half], content[half:]))
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(_named(*network)[1](images), images, weights)
    return None, as_bytes(gradient)


def as_tensor(content: bytes, shape: Sequence[int]) -> Tensor:
    """Return float32 values that bytes hold; a ModelLoadError if they are not so many."""
    if len(content) != 4 * math.prod(shape):
        raise ModelLoadError(f"a network from a file gave {len(content)} bytes for values {tuple(shape)}")
    return torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(tuple(shape))


def as_bytes(values: Tensor) -> bytes:
    return values.detach().float().cpu().contiguous().numpy().tobytes()


def _named(path: str, sha256: str, device: str, threads: int) -> tuple[Sides, Run]:
    torch.set_num_threads(threads)
    return _opened(path, sha256, device)


@lru_cache(OPEN_NETWORKS)
def _opened(path: str, sha256: str, device: str) -> tuple[Sides, Run]:
    with reading(path, ModelLoadError, says="holds no network of one image tensor", advice="export it again"):
        content = Path(path).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ModelLoadError(f"{path} has changed since it was opened; run again")
        return (_exported if path.endswith(".pt2") else _onnx)(path, content, device)


def _exported(path: str, content: bytes, device: str) -> tuple[Sides, Run]:
    """Return a network of torch.export; its gradient is there unless its graph cuts it."""
    from torch.export.passes import move_to_device_pass

    program: Any = torch.export.load(checked_archive(path, content))
    (entry,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    module: Any = move_to_device_pass(program, torch.device(device)).module()
    module.requires_grad_(False)
    homes = [home for part in module.modules() for home in (part._parameters, part._buffers, vars(part))]
    stored = [value for home in homes for value in home.values() if isinstance(value, Tensor)]
    versions = [value._version for value in stored]

    def purify(images: Tensor) -> Tensor:
        purified: Tensor = module(images)
        if versions != [value._version for value in stored]:
            raise ModelLoadError(f"{path} changes its own weights or buffers; export it in eval mode")
        return purified

    return _free(entry.meta["val"].shape), purify


def _onnx(path: str, content: bytes, device: str) -> tuple[Sides, Run]:
    """Return a network that onnxruntime computes, on CUDA where it can; without a gradient."""
    session = onnx_session(content, device)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        raise ModelLoadError(f"{path} must take one float32 tensor (N, 3, H, W)")

    def purify(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {inputs[0].name: images.detach().cpu().numpy()})[0])

    return _free(inputs[0].shape), purify


def _free(shape: Sequence[Any]) -> Sides:
    sides = tuple(side if isinstance(side, int) else None for side in shape)
    return sides if len(sides) == 4 else (0, None, None, None)
