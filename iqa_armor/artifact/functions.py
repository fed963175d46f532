"""The functions and the methods of tensors that a stored graph may call, as `functions.toml` lists them."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pkgutil import resolve_name
from typing import Any

from iqa_armor.artifact.signatures import EXPONENT, GROWTH, Signature, Table

_BOUNDS = {"growth": GROWTH, "exponent": EXPONENT}


@dataclass(frozen=True)
class StoredFunction:
    """A function that a stored graph may call, and with which arguments."""

    target: Callable[..., Any]
    signature: Signature


def _signature(row: Any) -> Signature:
    fields = {"names": row} if isinstance(row, str) else dict(row)
    if "largest" in fields:
        fields["largest"] = _BOUNDS[fields["largest"]]
    return Signature(**fields)


_ROWS = tomllib.loads(resources.files("iqa_armor.artifact").joinpath("functions.toml").read_text("utf-8"))
_SIGNATURES = {
    module: {
        name: signature for names, row in rows.items() for signature in [_signature(row)] for name in names.split()
    }
    for module, rows in _ROWS.items()
}
METHODS: dict[str, Signature] = _SIGNATURES.pop("torch.Tensor")


def functions_of(module: str) -> dict[str, StoredFunction]:
    """Return the functions of a module by their full names."""
    owner, rows = resolve_name(module), _SIGNATURES[module]
    return {f"{module}.{name}": StoredFunction(getattr(owner, name), signature) for name, signature in rows.items()}


_MODULES = (module for module in _SIGNATURES if module != "torchvision.ops")
FUNCTIONS: Table[StoredFunction] = Table(
    {name: function for module in _MODULES for name, function in functions_of(module).items()},
    "FUNCTIONS",
    lambda function: function.target,
)
