"""Put the weights of a state dict into a network, and find the architecture they belong to."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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


@runtime_checkable
class Adapting(Protocol):
    """A network whose authors' files name or hold some weights in another way."""

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict under the network's own names; one that has them already comes back unchanged."""


@dataclass(frozen=True)
class Fit:
    """How a state dict, under the names that a network gives its tensors, goes with the sizes of the network's own."""

    state: dict[str, Tensor]
    own: dict[str, tuple[int, ...]]

    @property
    def fitting(self) -> dict[str, Tensor]:
        """What the network has under the same name and size."""
        return {name: value for name, value in self.state.items() if self.own.get(name) == tuple(value.shape)}

    @property
    def problems(self) -> dict[str, list[str]]:
        """Names by what is wrong with them; empty where the weights are exactly the network's."""
        found = {
            "of another size": [
                f"{name} {list(self.state[name].shape)} instead of {list(size)}"
                for name, size in self.own.items()
                if name in self.state and self.state[name].shape != size
            ],
            "missing": _required(self.own.keys() - self.state.keys()),
            "unexpected": _required(self.state.keys() - self.own.keys()),
        }
        return {kind: names for kind, names in found.items() if names}

    @property
    def share(self) -> float:
        """Share of the tensors of either that fit, in [0, 1]."""
        return len(_required(self.fitting)) / max(1, len(_required(self.own.keys() | self.state.keys())))


def _required(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.endswith(OPTIONAL_SUFFIX))


def fit_of(network: nn.Module, state: Mapping[str, Tensor]) -> Fit:
    """Return how a state dict goes with a network, also with a prefix of `PREFIXES` before every name."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    aligned = _aligned({name: value for name, value in state.items() if name not in RESCALING}, own)
    aligned = _from_classifier(aligned, getattr(network, "classifier_places", {}))
    if isinstance(network, Adapting):
        aligned = network.adapt({**aligned, **{name: state[name] for name in RESCALING if name in state}})
    return Fit(aligned, own)


def _from_classifier(state: Mapping[str, Tensor], places: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a state dict in which the parts of an ImageNet classifier, to train from, have the names in `places`."""
    parts = {name: name.partition(".") for name in state}
    return {
        f"{places[first]}.{rest}" if first in places and rest else name: state[name]
        for name, (first, _, rest) in parts.items()
    }


def load_strict(network: nn.Module, state: Mapping[str, Tensor], *, source: str = "the state dict") -> None:
    """Load weights into a network, in place, if they are exactly its own; else it stays untouched.

    The error lists the missing, unexpected and differently sized entries of `source`, ten of each.
    """
    fit = fit_of(network, state)
    if fit.problems:
        found = "; ".join(f"{kind}: {listed(names)}" for kind, names in fit.problems.items())
        raise ModelLoadError(f"{source} does not fit the architecture; {found}")
    network.load_state_dict(fit.state, strict=False)


def load_matching(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> list[str]:
    """Load the weights that a network has under the same name and size, in place; return the names of all others.

    If they are fewer than half of the network's parameter tensors, it stays untouched, and that is an error.
    """
    fit = fit_of(network, state)
    fitting, parameters = fit.fitting, [name for name, _ in network.named_parameters()]
    found = sum(name in fitting for name in parameters)
    if 2 * found < len(parameters):
        raise ModelLoadError(
            f"only {found} of the network's {len(parameters)} parameter tensors are in {source} under the "
            f"same name and size; it looks like another architecture (it holds {listed(fit.state, 3)})"
        )
    network.load_state_dict(fitting, strict=False)
    return [name for name in fit.own if name not in fitting and not name.endswith(OPTIONAL_SUFFIX)]


def match_architecture(state: Mapping[str, Tensor], candidates: Mapping[str, Callable[[], nn.Module]]) -> str:
    """Return the name of the one candidate, each built once on the meta device, that a state dict fits exactly."""
    with torch.device("meta"):
        fits = {name: fit_of(bare(build()), state) for name, build in candidates.items()}
    exact = [name for name, fit in fits.items() if not fit.problems]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise ModelLoadError(f"the weights fit several architectures ({', '.join(exact)}); choose with --arch NAME")
    near = sorted((item for item in fits.items() if item[1].share > 0), key=lambda item: -item[1].share)[:3]
    texts = [f"{name} ({fit.share:.0%} of the tensors; {_difference(fit)})" for name, fit in near]
    raise ModelLoadError(
        f"the weights fit no built-in architecture exactly; nearest: {'; '.join(texts) or 'none'}. "
        "Name yours with --arch NAME, --arch package.module:factory or --arch path/file.py:factory"
    )


def _difference(fit: Fit) -> str:
    kinds = fit.problems.items()
    found = [name if kind == "of another size" else f"{name} {kind}" for kind, names in kinds for name in names]
    return listed(found, 2)


def bare(network: nn.Module) -> nn.Module:
    """Return the network inside a QualityModel, or the network itself."""
    return network.network if isinstance(network, QualityModel) else network


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


def _aligned(state: dict[str, Tensor], own: Mapping[str, object]) -> dict[str, Tensor]:
    best = state
    for _ in PREFIXES:
        stripped = next((bare for prefix in PREFIXES if (bare := without_prefix(state, prefix)) is not state), None)
        if stripped is None:
            break
        state = stripped
        if len(own.keys() & state.keys()) > len(own.keys() & best.keys()):
            best = state
    return best
