"""Find out which modules of a network stay its user's own code."""

import logging

import torch
from torch import nn

from iqa_armor.artifact.checks import FormatError
from iqa_armor.artifact.encode import encode_network
from iqa_armor.errors import ModelLoadError, SurgeryError
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import KONIQ_SIZE, QualityModel

logger = logging.getLogger(__name__)


def keep_source(model: QualityModel, leaves: tuple[str, ...], *, allow: bool) -> None:
    """Mark modules of a model, in place, that surgery passes by: those named and, where allowed, all that it cannot do.

    Those that cannot be traced or stored are looked for from the innermost outwards. What the network's own forward
    does cannot be passed by; hardening then says why. A module that is not there is a ModelLoadError.
    """
    for path in leaves:
        _mark(model.network, path)
    while allow:
        place, reason = _stuck(model)
        if place is None:
            return
        if not place or getattr(model.network.get_submodule(place), "is_traced_whole", False):
            logger.warning("surgery cannot pass by the network's own forward: %s", reason)
            return
        logger.info("%s stays its author's code: %s", place, reason)
        _mark(model.network, place)


def _mark(network: nn.Module, path: str) -> None:
    try:
        network.get_submodule(path).is_traced_whole = True  # type: ignore[assignment]
    except AttributeError as error:
        children = ", ".join(name for name, _ in network.named_children())
        raise ModelLoadError(f"there is no module {path!r} in this network; its outermost are {children}") from error


def _stuck(model: QualityModel) -> tuple[str | None, str]:
    """Return the path of the innermost module that cannot be traced or stored, None without one, and why."""
    size = model.preprocessing.size or KONIQ_SIZE
    try:
        encode_network(trace(model.network, torch.zeros(1, 3, *size)))
    except (SurgeryError, FormatError) as error:
        place = getattr(error, "place", getattr(error.__cause__, "place", ""))
        return str(place), str(error)
    return None, ""
