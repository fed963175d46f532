"""Bring the names in a state dict to those of a network: wrappers' prefixes, copies, what is no weight."""

import posixpath
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

_AVERAGED = frozenset(("ema", "swa", "averaged", "averaging", "average", "avg", "shadow", "polyak"))
# What wrappers put between the names: DataParallel around a part, torch.compile, FSDP, activation checkpointing.
_INNER = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What is no weight although it is among them: thop's and AveragedModel's counters, and by the first word criteria and
# metrics that are modules.
_COUNTERS = ("total_ops", "total_params", "n_averaged")
_BESIDE = re.compile(
    r"(?:.*_)?(?:criterion|criteria|loss(?:es|_fn|_func|_fct)?|metrics?|accuracy|srcc|plcc|srocc)(?:_.*)?"
)


Size = tuple[int, ...]
Names = dict[str, str]  # names in a state dict by those that a network may have for them


def aligned_names(sizes: Mapping[str, Size], own: Mapping[str, Size]) -> Iterator[tuple[str, Names]]:
    """Yield each prefix that may be taken off a state dict, of tensors of given sizes, with the names that are left."""
    inner = {_INNER.sub("", name): name for name in sizes}
    yield from _taken_off({name: name for name in sizes}, sizes, own)
    if len(inner) == len(sizes) and inner.keys() != sizes.keys():
        yield from _taken_off(inner, sizes, own)


def _taken_off(names: Names, sizes: Mapping[str, Size], own: Mapping[str, Size]) -> Iterator[tuple[str, Names]]:
    votes = Counter(
        name.removesuffix(end) for name in names for end in _endings(name) if own.get(end) == sizes[names[name]]
    )
    most = max(votes.values(), default=0)
    copies = [prefix for prefix, count in votes.items() if count == most and prefix]
    weights = [name for name in names if not _is_beside(name, own)]
    for prefix in ("", *dict.fromkeys((*_common_prefixes(weights), *copies))):
        others = () if prefix or votes[""] < most else tuple(copies)
        bare = {name.removeprefix(prefix): stored for name, stored in names.items() if name.startswith(prefix)}
        kept = (name for name in bare if name in own or not (_is_beside(name, own) or name.startswith(others)))
        yield prefix, {name: bare[name] for name in kept}


def _endings(name: str) -> Iterator[str]:
    """Yield a name, and what is behind each of its dots."""
    while name:
        yield name
        name = name.partition(".")[2]


def _is_beside(name: str, own: Container[str]) -> bool:
    is_known = name.rpartition(".")[2] in _COUNTERS or _BESIDE.fullmatch(name.partition(".")[0])
    return bool(is_known) and name not in own


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
