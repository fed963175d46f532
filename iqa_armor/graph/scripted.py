"""Take modules that TorchScript compiled from Python for what they were compiled from."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def source_of(module: torch.jit.ScriptModule) -> nn.Module | None:
    """Return a copy of what a module was compiled from, with the compiled one's own weights, buffers and modes.

    None where no source is at hand: one that was loaded from a file, or recorded by `torch.jit.trace`.
    """
    method: Any = getattr(vars(module).get("forward"), "__wrapped__", None)
    source = getattr(method, "__self__", None)
    if not isinstance(source, nn.Module):
        return None
    own = _tensors(module)
    known: dict[int, Any] = {id(tensor): own.get(name, tensor) for name, tensor in _tensors(source).items()}
    parts = [part for part in source.modules() if isinstance(part, torch.jit.ScriptModule)]
    copied = copy.deepcopy(source, known | {id(part): source_of(part) or part for part in parts})
    for name, part in module.named_modules():
        copied.get_submodule(name).training = part.training
    return copied


@contextmanager
def from_source(network: nn.Module) -> Iterator[nn.Module]:
    """Put what compiled modules were compiled from in their places for a while; yield the network, or its source."""
    if isinstance(network, torch.jit.ScriptModule):
        yield source_of(network) or network
        return
    compiled = {path: part for path, part in network.named_modules() if isinstance(part, torch.jit.ScriptModule)}
    outermost = {path: part for path, part in compiled.items() if path.rpartition(".")[0] not in compiled}
    try:
        for path, part in outermost.items():
            network.set_submodule(path, source_of(part) or part)
        yield network
    finally:
        for path, part in outermost.items():
            network.set_submodule(path, part)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)))
