"""Put the weights of a state dict into a network, and find the architecture they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import QualityModel

# What wrappers put before every name: DataParallel, Lightning and other trainers, torch.compile.
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
# Batch norm's counter is missing in checkpoints older than torch 0.4.1 and unused unless momentum is None.
OPTIONAL_SUFFIX = "num_batches_tracked"
# Under these names `read_state` gives the numbers k and b of a linear rescaling stored beside the weights.
RESCALING = ("rescaling.k", "rescaling.b")

Sizes = dict[str, tuple[int, ...]]


@runtime_checkable
class Adapting(Protocol):
    """A network whose authors' files name or hold some weights in another way."""

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict under the network's own names; one that has them already comes back unchanged."""


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the state dict with a prefix taken off its names if every one of them carries it."""
    if not state or not all(name.startswith(prefix) and name != prefix for name in state):
        return state
    return {name.removeprefix(prefix): value for name, value in state.items()}


def listed(items: Iterable[str], limit: int = 10) -> str:
    """Return the first items as text, and how many more there are."""
    every = list(items)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def load_strict(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights into a network, in place, if they are exactly its own.

    A prefix of `PREFIXES` that every name carries is taken off where the names fit only without it.

    Args:
        network: What receives the weights; untouched if they do not fit.
        state: Tensors by name.
        source: What messages call the weights, e.g. the file's name.

    Raises:
        ModelLoadError: Listing the missing, unexpected and differently sized entries, ten of each.
    """
    own = _sizes(network.state_dict())
    aligned = _renamed(network, state)
    given = _sizes(aligned)
    problems = [
        ("missing", sorted(name for name in own.keys() - given.keys() if not name.endswith(OPTIONAL_SUFFIX))),
        ("unexpected", sorted(given.keys() - own.keys())),
        ("of another size", _resized(own, given)),
    ]
    found = [f"{kind}: {listed(names)}" for kind, names in problems if names]
    if found:
        raise ModelLoadError(f"{source} does not fit the architecture; {'; '.join(found)}")
    network.load_state_dict(aligned, strict=False)


def load_matching(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> list[str]:
    """Load the weights that a network has under the same name and size, in place.

    Args:
        network: What receives the weights; untouched if too few fit.
        state: Tensors by name, e.g. of an ImageNet classifier.
        source: What messages call the weights, e.g. the file's name.

    Returns:
        Names of the network's tensors that keep their initial values.

    Raises:
        ModelLoadError: If fewer than half of the network's parameter tensors are found.
    """
    own = _sizes(network.state_dict())
    aligned = _renamed(network, state)
    fitting = {name: value for name, value in aligned.items() if own.get(name) == tuple(value.shape)}
    parameters = [name for name, _ in network.named_parameters()]
    found = sum(name in fitting for name in parameters)
    if 2 * found < len(parameters):
        raise ModelLoadError(
            f"only {found} of the network's {len(parameters)} parameter tensors are in {source} under the "
            f"same name and size; it looks like another architecture (it holds {listed(aligned, 3)})"
        )
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting and not name.endswith(OPTIONAL_SUFFIX)]


def match_architecture(state: Mapping[str, Tensor], candidates: Mapping[str, Callable[[], nn.Module]]) -> str:
    """Return the name of the one candidate that has exactly the names and sizes of a state dict.

    Args:
        state: Tensors by name.
        candidates: Builders of networks by name; each is built once, on the meta device.

    Raises:
        ModelLoadError: If none fits, naming the nearest ones and where they differ, or if several do.
    """
    shares: dict[str, float] = {}
    differences: dict[str, str] = {}
    fitting = []
    for name, build in candidates.items():
        with torch.device("meta"):
            network = bare(build())
        own = _sizes(network.state_dict())
        given = _sizes(_renamed(network, state))
        if _required(own) == _required(given):
            fitting.append(name)
        shares[name] = _share(own, given)
        differences[name] = _difference(own, given)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ModelLoadError(f"the weights fit several architectures ({', '.join(fitting)}); choose with --arch NAME")
    near = sorted((name for name in shares if shares[name] > 0), key=lambda name: -shares[name])[:3]
    texts = [f"{name} ({shares[name]:.0%} of the tensors; {differences[name]})" for name in near]
    raise ModelLoadError(
        f"the weights fit no built-in architecture exactly; nearest: {'; '.join(texts) or 'none'}. "
        "Name yours with --arch NAME, --arch package.module:factory or --arch path/file.py:factory"
    )


def bare(network: nn.Module) -> nn.Module:
    """Return the network inside a QualityModel, or the network itself."""
    return network.network if isinstance(network, QualityModel) else network


def _sizes(state: Mapping[str, Tensor]) -> Sizes:
    return {name: tuple(value.shape) for name, value in state.items()}


def _required(sizes: Sizes) -> Sizes:
    return {name: size for name, size in sizes.items() if not name.endswith(OPTIONAL_SUFFIX)}


def _resized(own: Sizes, given: Sizes) -> list[str]:
    return [
        f"{name} {list(given[name])} instead of {list(own[name])}"
        for name in own
        if name in given and given[name] != own[name]
    ]


def _renamed(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict under the names that a network gives its tensors."""
    weights = {name: value for name, value in state.items() if name not in RESCALING}
    aligned = _aligned(weights, _sizes(network.state_dict()))
    if not isinstance(network, Adapting):
        return aligned
    return network.adapt({**aligned, **{name: state[name] for name in RESCALING if name in state}})


def _aligned(state: dict[str, Tensor], own: Sizes) -> dict[str, Tensor]:
    """Return the state dict without the prefixes that keep its names from being the network's."""
    best = state
    for _ in PREFIXES:
        stripped = next((bare for prefix in PREFIXES if (bare := without_prefix(state, prefix)) is not state), None)
        if stripped is None:
            break
        state = stripped
        if len(own.keys() & state.keys()) > len(own.keys() & best.keys()):
            best = state
    return best


def _share(own: Sizes, given: Sizes) -> float:
    own, given = _required(own), _required(given)
    equal = sum(given.get(name) == size for name, size in own.items())
    return equal / max(1, len(own.keys() | given.keys()))


def _difference(own: Sizes, given: Sizes) -> str:
    own, given = _required(own), _required(given)
    return listed(
        _resized(own, given)
        + [f"{name} missing" for name in own if name not in given]
        + [f"{name} unexpected" for name in given if name not in own],
        2,
    )
