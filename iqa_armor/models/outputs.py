"""What a network returns: the score among several things, and whether it is a function of one image."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import ModelLoadError, SurgeryError, calling
from iqa_armor.graph.interpret import notes_of
from iqa_armor.graph.trace import trace
from iqa_armor.randomness import seeded

CHOOSE = "choose with --output NAME|INDEX|mean, or wrap it so that its forward returns a tensor (N,) or (N, 1)"
UNFOLLOWED = (
    "the traced network is not the original: scores differ by {apart:.2g} of their spread; its forward does something "
    "that a trace cannot hold, such as writing into a part of a tensor that is read whole afterwards (write into the "
    "tensor itself), drawing numbers outside torch or keeping values between calls"
)
STEADY, ROUNDING = 1e-3, 1e-5  # of the scores' spread and of their size: more than float32 rounds
# In a stored graph's meta: whether it draws, and whether images depend on their company: "untried", "alone" or "any".
DRAWS, COMPANY = "draws", "company"


def shown(value: Any) -> str:
    """Return what a network has returned, in short: names and sizes."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, Mapping):
        return "a dict of " + ", ".join(f"{name!r} {shown(part)}" for name, part in value.items())
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        parts = ", ".join(f"{name} {shown(part)}" for name, part in zip(names, value, strict=True))
        return f"a {type(value).__name__} of {parts}"
    return type(value).__name__


def choose_output(network: nn.Module, choice: str, images: Tensor) -> None:
    """Let a network return one of its outputs from here on, in place; its class is replaced by a subclass.

    The choice is a name in a dict or named tuple, an index in a tuple or list or of a column (N, K), or "mean": of a
    distribution over K bins, worth 1 to K as in NIMA, that is its mean, else that of all scores. It is tried on
    normalised images (N, 3, H, W) in eval mode, which stays; a ModelLoadError lists what there is instead.
    """
    with calling("the network", ModelLoadError, says=f"fails on images {tuple(images.shape)}"), torch.no_grad():
        found = network.eval()(images)
    is_row = choice == "mean" and isinstance(found, Tensor) and found.ndim == 2 and found.shape[1] > 1
    is_distribution = is_row and bool((found >= 0).all() and ((found.sum(1) - 1).abs() < 1e-3).all())
    try:
        pick = _picker(found, choice, is_distribution=is_distribution)
        pick(found)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"the network has no output {choice!r}; it returns {shown(found)}; {CHOOSE}") from error
    kind: Any = type(network)

    def forward(self: nn.Module, images: Tensor) -> Any:
        return pick(kind.forward(self, images))

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _picker(found: Any, choice: str, *, is_distribution: bool) -> Callable[[Any], Any]:
    """Return how to take a choice from what is like `found`; what that is, a trace could not tell."""
    if is_distribution:
        bins = found.shape[1]
        return lambda given: (given * torch.arange(1.0, bins + 1, device=given.device)).sum(1)
    if choice == "mean":
        keys = None if isinstance(found, Tensor) else list(found) if isinstance(found, Mapping) else range(len(found))
        return lambda given: _mean([given] if keys is None else [given[key] for key in keys])
    if isinstance(found, Mapping):
        return itemgetter(choice)
    if choice in getattr(found, "_fields", ()):
        return attrgetter(choice)
    index = int(choice)
    return (lambda given: given.flatten(1)[:, index]) if isinstance(found, Tensor) else itemgetter(index)


def _mean(parts: list[Any]) -> Any:
    return sum(part.flatten(1).mean(1) if part.ndim > 1 else part for part in parts) / len(parts)


def is_steady(network: nn.Module, images: Tensor) -> bool:
    """Return whether an image (of N, 3, H, W, N at least 2) has one score, every time and in any company."""
    with torch.no_grad():
        together = network.forward(images).double().flatten()
        alone = torch.cat([network.forward(image).double().flatten() for image in torch.split(images, 1)])
    tolerance = max(STEADY * float(together.std()), ROUNDING * float(together.abs().max()))
    return len(alone) == len(together) and bool(((alone - together).abs() <= tolerance).all())


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep torch.nn's transformer layers from another way of computing, which rounds otherwise."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def followed(network: nn.Module, images: Tensor) -> fx.GraphModule:
    """Return a network's graph; a SurgeryError if images (N, 3, H, W), N at least 2, get other scores by it."""
    traced = trace(network, images[:1])
    says = f"fails on images {tuple(images.shape)}"
    with calling("the network", ModelLoadError, says=says), torch.no_grad(), plain_attention():
        if isinstance(network, fx.GraphModule) or network.training or not is_steady(network, images):
            return traced
        before, after = (each.forward(images).double().flatten() for each in (network, traced))
    spread, apart = float(before.std()), float((before - after).abs().max())
    if not apart <= max(STEADY * spread, ROUNDING * float(before.abs().max())):
        raise SurgeryError(UNFOLLOWED.format(apart=apart / max(spread, 1e-12)))
    return traced


def scores_of(network: nn.Module, images: Tensor) -> object:
    """Return what a network in eval mode gives for images (N, 3, H, W), so that each depends on its own image only.

    A stored graph that mixes images, as the first two show, gets them one by one; one that draws, with the same draws.
    """
    meta = notes_of(network)
    if meta.get(COMPANY) == "untried" and len(images) > 1 and not meta.get(DRAWS):
        meta[COMPANY] = "any" if is_steady(network, images[:2].detach()) else "alone"
    if len(images) < 1 or not (meta.get(DRAWS) or meta.get(COMPANY) == "alone"):
        return network.forward(images) if isinstance(network, torch.fx.GraphModule) else network(images)
    scores = []
    for image in torch.split(images, 1):
        with seeded(0, images.device):
            scores.append(network.forward(image).reshape(-1))
    return torch.cat(scores)
