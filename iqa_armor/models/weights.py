"""Put the weights of a state dict, whose names wrappers may have changed, into the network that they belong to."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iqa_armor.errors import ModelLoadError
from iqa_armor.models.base import QualityModel
from iqa_armor.randomness import Undrawn

_AVERAGED = frozenset(("ema", "swa", "averaged", "averaging", "average", "avg", "shadow", "polyak"))
# What wrappers put between the names: DataParallel around a part, torch.compile, FSDP, activation checkpointing.
_INNER = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What is no weight although it is among them: thop's and AveragedModel's counters, and by the first word criteria and
# metrics that are modules.
_COUNTERS = ("total_ops", "total_params", "n_averaged")
_BESIDE = re.compile(
    r"(?:.*_)?(?:criterion|criteria|loss(?:es|_fn|_func|_fct)?|metrics?|accuracy|srcc|plcc|srocc)(?:_.*)?"
)
# Batch norm's counter is missing in checkpoints older than torch 0.4.1 and unused unless momentum is None.
OPTIONAL_SUFFIX = "num_batches_tracked"
# Where Linearity's training script puts the numbers that bring its scores to the unit of the opinions, and the names
# under which `read_checkpoint` gives them.
RESCALING_KEYS = ("k", "b")
RESCALING = ("rescaling.k", "rescaling.b")
Size = tuple[int, ...]
Names = dict[str, str]  # names in a state dict by those that a network may have for them


def aligned_names(sizes: Mapping[str, Size], own: Mapping[str, Size]) -> Iterator[tuple[str, Names]]:
    """Yield each prefix that may be taken off a state dict, of tensors of given sizes, with the names that are left."""
    inner = {_INNER.sub("", name): name for name in sizes}
    yield from _taken_off({name: name for name in sizes}, sizes, own)
    if len(inner) == len(sizes) and inner.keys() != sizes.keys():
        yield from _taken_off(inner, sizes, own)


def _taken_off(names: Names, sizes: Mapping[str, Size], own: Mapping[str, Size]) -> Iterator[tuple[str, Names]]:
    ends = [(name, name.split(".", dots)[-1]) for name in names for dots in range(name.count(".") + 1)]
    votes = Counter(name.removesuffix(end) for name, end in ends if own.get(end) == sizes[names[name]])
    most = max(votes.values(), default=0)
    copies = [prefix for prefix, count in votes.items() if count == most and prefix]
    weights = [name for name in names if not _is_beside(name, own)]
    for prefix in ("", *dict.fromkeys((*_common_prefixes(weights), *copies))):
        others = () if prefix or votes[""] < most else tuple(copies)
        bare = {name.removeprefix(prefix): stored for name, stored in names.items() if name.startswith(prefix)}
        kept = (name for name in bare if name in own or not (_is_beside(name, own) or name.startswith(others)))
        yield prefix, {name: bare[name] for name in kept}


def _is_beside(name: str, own: Container[str]) -> bool:
    return name not in own and bool(name.rpartition(".")[2] in _COUNTERS or _BESIDE.fullmatch(name.partition(".")[0]))


def _common_prefixes(names: Sequence[str]) -> list[str]:
    """Return the prefixes, ending in a dot, that all names carry, the shortest first."""
    shared = posixpath.commonprefix(names).split(".")[:-1]
    return [".".join(shared[:count]) + "." for count in range(1, len(shared) + 1)]


def says_averaged(text: str) -> bool:
    """Whether a key or prefix says that weights are averaged over the training, as in `model_ema` or `modelEMA`."""
    return not _AVERAGED.isdisjoint(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text))


def bare_names(names: Iterable[Any]) -> dict[str, str]:
    """Return the stored names of weights by what is behind the prefix that all of them carry."""
    weights = [name for name in map(str, names) if not _is_beside(name, ())]
    prefix = ["", *_common_prefixes(weights)][-1]
    return {name.removeprefix(prefix): name for name in weights}


@dataclass(frozen=True)
class Fit:
    """How a state dict, under the names that a network gives its tensors, goes with the sizes of the network's own."""

    state: dict[str, Tensor]
    own: dict[str, tuple[int, ...]]
    prefix: str = ""
    rest: tuple[str, ...] = ()  # names of the checkpoint that are left out

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
    """Return how a state dict goes with a network: with which prefix taken off most fits, averaged copies preferred.

    Differing copies that fit alike are a ModelLoadError. A network's `adapt` gives its authors' weights its own names.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    numbers = {name: state[name] for name in RESCALING if name in state}
    sizes = {name: tuple(value.shape) for name, value in state.items() if name not in numbers}
    adapt: Any = getattr(network, "adapt", None)
    fits = []
    for prefix, stored in aligned_names(sizes, own):
        part = {name: state[stored[name]] for name in stored}
        part = _from_classifier(part, getattr(network, "classifier_places", {}))
        rest = sizes.keys() - stored.values()
        part = adapt({**part, **numbers}) if callable(adapt) else part
        fits.append(Fit(part, own, prefix, tuple(name for name in sizes if name in rest)))
    best = max(fits, key=lambda fit: (not fit.problems, len(fit.fitting), says_averaged(fit.prefix)))
    rivals = [fit for fit in fits if not fit.problems and _differ(fit.state, best.state)]
    if rivals and not (best.problems or says_averaged(best.prefix)):
        names = ", ".join(dict.fromkeys(repr(fit.prefix.rstrip(".")) for fit in (best, *rivals)))
        raise ModelLoadError(f"several sets of weights fit, under {names}; choose with --weights-key KEY")
    return best


def _differ(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    shared = ((value, second[name]) for name, value in first.items() if name in second)
    return any(value is not other and not torch.equal(value, other) for value, other in shared)


def _from_classifier(state: Mapping[str, Tensor], places: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a state dict in which the parts of an ImageNet classifier, to train from, have the names in `places`."""
    parts = [(name.partition("."), value) for name, value in state.items()]
    return {f"{places.get(first, first) if rest else first}{dot}{rest}": value for (first, dot, rest), value in parts}


def load_strict(network: nn.Module, state: Mapping[str, Tensor], *, source: str = "the state dict") -> str:
    """Load weights into a network, in place, if they are exactly its own; else it stays untouched.

    The remark that comes back names what is left out, or is empty. The error lists ten of each kind of problem.
    """
    fit = fit_of(network, state)
    if fit.problems:
        found = "; ".join(f"{kind}: {listed(names)}" for kind, names in fit.problems.items())
        raise ModelLoadError(f"{source} does not fit the architecture; {found}")
    network.load_state_dict(fit.state, strict=False)
    parts = Counter(name.partition(".")[0] for name in fit.rest)
    rest = listed(f"{part} ({count} tensors)" if count > 1 else part for part, count in parts.items())
    under = f" under {fit.prefix.rstrip('.')!r}" if fit.prefix else ""
    return f"{source}: the weights{under} are opened, left out: {rest}" if rest else ""


def load_matching(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> list[str]:
    """Load the weights that fit, in place, and return the names of the others; an error if those are more than half."""
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
    with torch.device("meta"), Undrawn():
        fits = {name: fit_of(bare(build()), state) for name, build in candidates.items()}
    exact = [name for name, fit in fits.items() if not fit.problems]
    exact = [name for name in exact if not fits[name].rest] or exact
    # Of a network and one that holds it, whose names are longer, the weights are those of the latter.
    lengths = {name: sum(map(len, fits[name].own)) for name in exact}
    exact = [name for name in exact if lengths[name] == max(lengths.values())]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise ModelLoadError(f"the weights fit several architectures ({', '.join(exact)}); choose with --arch NAME")
    near = sorted((item for item in fits.items() if item[1].share > 0), key=lambda item: -item[1].share)[:3]
    texts = []
    for name, fit in near:
        every = [(kind, each) for kind, names in fit.problems.items() for each in names]
        found = listed((each if kind == "of another size" else f"{each} {kind}" for kind, each in every), 2)
        texts.append(f"{name} ({fit.share:.0%} of the tensors; {found})")
    raise ModelLoadError(
        f"the weights fit no built-in architecture exactly; nearest: {'; '.join(texts) or 'none'}. "
        "Name yours with --arch NAME, --arch package.module:factory or --arch path/file.py:factory"
    )


def bare(network: nn.Module) -> nn.Module:
    return network.network if isinstance(network, QualityModel) else network


def listed(items: Iterable[str], limit: int = 10) -> str:
    """Return the first items as text, and how many more there are."""
    every = list(items)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
