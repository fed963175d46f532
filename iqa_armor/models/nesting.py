"""Find the weights in what a training script saved: which of several sets, and what lies beside them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from iqa_armor.errors import ModelLoadError
from iqa_armor.models.plain_data import PickledArray
from iqa_armor.models.weights import RESCALING_KEYS, bare_names, listed, says_averaged

# Where training scripts nest the weights, the usual places first.
WRAPPER_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "params", "model"),
    *("net", "network", "weights", "module", "params_net", "net_g"),
)
_NO_MODEL = re.compile(r"optim|sched|scaler|^amp$|loss|criterion|metric|^rng|grad")
_UNNAMED = "shadow_params"  # where averages lie in a list, in the order of the network's parameters
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_MAX_NESTING = 4


@dataclass(frozen=True)
class Stored:
    """A set of weights: the keys behind which it lies, none at the top, and its entries or the whole module."""

    keys: tuple[str, ...]
    value: Mapping[Any, Any] | nn.Module

    @property
    def key(self) -> str:
        return ".".join(self.keys)

    @property
    def rank(self) -> tuple[int, tuple[int, ...]]:
        """What is opened first: averaged weights, then usual keys in their order, the top, any other key."""
        if says_averaged(self.key):
            return 0, ()
        if self.keys and all(key in WRAPPER_KEYS for key in self.keys):
            return 1, tuple(map(WRAPPER_KEYS.index, self.keys))
        return 3 if self.keys else 2, ()

    def state(self) -> Mapping[Any, Any]:
        return self.value.state_dict() if isinstance(self.value, nn.Module) else self.value


def find_weights(stored: object, *, key: str | None, source: str) -> tuple[Stored | None, list[str]]:
    """Return the weights to open, None where there are none, and remarks for the user.

    Complete averages are preferred, buffers aside. `key` names a set by its keys joined by dots, or how its names
    begin.
    """
    every, remarks = _with_names(list(_walk(stored, ())), source)
    if key is not None:
        return _named(every, key, source, remarks), []
    found = sorted((one for one in every if not _NO_MODEL.search(one.key.lower())), key=lambda one: one.rank)
    at_top = [name for one in found if not one.keys for name, value in one.state().items() if _is_array(value)]
    if any(one.keys for one in found) and not any("." in str(name) for name in at_top):
        found = [one for one in found if one.keys]  # tensors beside the weights, such as a step
    if not found:
        if remarks:
            raise ModelLoadError(remarks[0])
        return None, []
    chosen, said = _averaged_or_raw(found)
    remarks += said
    alike = [one.key for one in found if one.rank == chosen.rank and one.rank[0] == 3]
    if len(alike) > 1:
        several = ", ".join(alike)
        raise ModelLoadError(f"{source} holds several sets of weights: {several}; choose with --weights-key KEY")
    others = ", ".join(repr(one.key) for one in found if one.keys and one.keys != chosen.keys)
    opened = f"{source}: the weights {f'under {chosen.key!r}' if chosen.keys else 'at the top'} are opened"
    if others or chosen.rank[0] == 3:
        remarks.append(f"{opened}; --weights-key chooses another of {others}" if others else opened)
    return chosen, remarks


def _walk(value: object, keys: tuple[str, ...]) -> Iterator[Stored]:
    if isinstance(value, nn.Module):
        yield Stored(keys, value)
    elif isinstance(value, Mapping):
        named = {name: part for name, part in value.items() if isinstance(name, str) and name not in RESCALING_KEYS}
        if any(_is_array(part) for part in named.values()):
            yield Stored(keys, value)
        if len(keys) < _MAX_NESTING:
            for name, part in named.items():
                yield from _walk(part, (*keys, name))
    elif keys[-1:] == (_UNNAMED,) and isinstance(value, list | tuple) and value:
        yield Stored(keys, dict(enumerate(value)))


def _with_names(every: list[Stored], source: str) -> tuple[list[Stored], list[str]]:
    """Return the sets, averages in lists under the names of weights beside them that match, and remarks."""
    unnamed = [one for one in every if one.keys[-1:] == (_UNNAMED,)]
    named, remarks = [one for one in every if one not in unnamed], []
    for one in unnamed:
        values = list(one.state().values())
        sizes = [value.shape if isinstance(value, Tensor) else None for value in values]
        like = next((other for other in named if list(_parameters(other).values()) == sizes), None)
        if like is not None:
            averaged = dict(zip(_parameters(like), values, strict=True))
            named.append(Stored(one.keys, {**like.state(), **averaged}))
            remarks.append(f"the averaged weights under {one.key!r} have names and buffers of those under {like.key!r}")
        else:
            remarks.append(
                f"{source}: the averaged weights under {one.key!r} are a list without names, and no weights beside it "
                "match its order; put them into the network and save its state_dict()"
            )
    return named, remarks


def _parameters(weights: Stored) -> dict[str, Any]:
    state = {str(name): value for name, value in weights.state().items() if not str(name).endswith(_BUFFERS)}
    return {name: value.shape if isinstance(value, Tensor) else None for name, value in state.items()}


def _is_array(value: object) -> bool:
    return value.value is not None if isinstance(value, PickledArray) else isinstance(value, Tensor) and value.ndim > 0


def _named(every: list[Stored], key: str, source: str, remarks: list[str]) -> Stored:
    for one in every:
        if one.key == key:
            return one
    for one in every:
        start = key.removeprefix(f"{one.key}.") + "."
        inside = {str(name): value for name, value in one.state().items() if str(name).startswith(start)}
        if inside:
            return Stored((key,), {name.removeprefix(start): value for name, value in inside.items()})
    keys = listed(repr(one.key) for one in every if one.keys)
    names = [str(name) for one in every for name in one.state() if "." in str(name)]
    has = keys or listed(dict.fromkeys(repr(name.partition(".")[0]) for name in names)) or "none"
    raise ModelLoadError("; ".join((f"{source} has no weights under {key!r}; it has {has}", *remarks)))


def _averaged_or_raw(found: list[Stored]) -> tuple[Stored, list[str]]:
    first = found[0]
    raw = next((one for one in found if not says_averaged(one.key)), None)
    if raw is None or not says_averaged(first.key) or isinstance(first.value, nn.Module):
        return first, []
    averaged, own, values = bare_names(first.state()), bare_names(raw.state()), raw.state()
    lacks = [own[name] for name in own if name not in averaged and _is_array(values[own[name]])]
    if not lacks:
        return first, []
    if all(name.endswith(_BUFFERS) for name in lacks):
        said = f"the averaged weights under {first.key!r} lack the buffers, which are those under {raw.key!r}"
        known = {own[name]: first.state()[averaged[name]] for name in own if name in averaged}
        return Stored(first.keys, {**values, **known}), [said]
    said = f"the averaged weights under {first.key!r} are not opened, since they lack {listed(lacks, 3)}"
    return raw, [said]
