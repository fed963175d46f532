"""Layers of a stored graph that are user code: the file has their weights, `--arch` the rest."""

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from iqa_armor.artifact.limits import FormatError, shown
from iqa_armor.artifact.signatures import Signature
from iqa_armor.artifact.stored_layer import StoredLayer

SOURCE = "source"


def is_source(module: nn.Module) -> bool:
    """Return whether a module is to stay the user's own code."""
    return bool(getattr(module, "is_traced_whole", False))


@dataclass(frozen=True)
class SourceLayer(StoredLayer):
    """A module that is taken from the network that the user's code makes."""

    kind: type[nn.Module] = nn.Module
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """What a graph may give the module: any number of what its forward takes, by place or by name."""
        return Signature(" ".join(f"{name}?" for name in self.keywords))


def taken_from(source: nn.Module | None, path: str) -> tuple[StoredLayer, nn.Module]:
    """Return a copy of a module of the user's network, and how a graph may call it."""
    if source is None:
        raise FormatError("it is user code that is not in the file; name its source with --arch")
    try:
        found = source.get_submodule(path)
    except AttributeError as error:
        raise FormatError(f"the network of --arch has no module {shown(path)}") from error
    module = copy.deepcopy(found)
    module.is_traced_whole = True  # type: ignore[assignment]
    return SourceLayer(keywords=tuple(inspect.signature(type(module).forward).parameters)[1:]), module
