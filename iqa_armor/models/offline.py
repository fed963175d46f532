"""Build networks of packages that fetch weights while they build, without fetching any."""

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from iqa_armor.errors import ModelLoadError


class _Unfetched(dict[str, Tensor]):
    """Stands for weights that were not fetched; loading it changes nothing."""


@contextmanager
def offline(what: str, *, module: ModuleType | None = None) -> Iterator[None]:
    """Keep constructors from fetching weights; those of timm and torchvision, and of `module`, go without them.

    Their networks keep random weights, which the user's file then replaces to the last one. Any other connection is
    refused by a ModelLoadError about `what`.
    """
    import torchvision.models._api as torchvision_api

    def refuse(*_: object, **__: object) -> None:
        raise ModelLoadError(
            f"{what} tries to download weights while it is built, which is refused; name your own factory with "
            "--arch path/file.py:factory"
        )

    def skip(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        return None if isinstance(state_dict, _Unfetched) else load(self, state_dict, *args, **options)

    load = nn.Module.load_state_dict
    with ExitStack() as stack, redirect_stdout(sys.stderr):
        _replace(stack, socket, "getaddrinfo", refuse)
        _replace(stack, nn.Module, "load_state_dict", skip)
        _replace(stack, torchvision_api.WeightsEnum, "get_state_dict", lambda *_, **__: _Unfetched())
        timm: Any = sys.modules.get("timm")
        if timm is not None:
            create = timm.create_model
            _replace(stack, timm, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False}))
        if module is not None and hasattr(module, "load_pretrained_network"):
            _replace(stack, module, "load_pretrained_network", lambda *_, **__: None)
        yield


def _replace(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
