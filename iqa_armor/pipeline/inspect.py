"""Find out where a block can stand in a model, what its blocks do to norms, and which modules stay its user's code."""

import logging
from dataclasses import dataclass

import torch
from torch import nn

from iqa_armor.artifact.checks import FormatError
from iqa_armor.artifact.encode import encode_network
from iqa_armor.errors import ModelLoadError, SurgeryError
from iqa_armor.graph.interpret import FIXED_SIZE
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import KONIQ_SIZE, QualityModel
from iqa_armor.surgery.spectra import BlockSpectrum, measure_blocks
from iqa_armor.surgery.stages import Cut, branches, tokens_instead
from iqa_armor.surgery.tokens import Lineage, TokenGrid, token_grids

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inspection:
    """The cuts of a model by branch and position, and the blocks it has already."""

    name: str
    parameters: int
    input_size: tuple[int, int]  # (height, width) that sizes refer to
    cuts: tuple[Cut, ...]
    recommended: tuple[str, ...]  # nodes that `--position last` takes
    grids: tuple[TokenGrid, ...]  # where a block can stand, if no cut of the convolutions is recommended
    blocks: tuple[str, ...]  # modules that are RobustBlocks already
    spectra: tuple[BlockSpectrum, ...]  # singular values, measured, of those and of the layers behind them
    remarks: tuple[str, ...]


def inspect_model(model: QualityModel) -> Inspection:
    """Trace a model, find its cuts and measure its blocks; a SurgeryError without a convolution and tokens."""
    size = model.preprocessing.size or KONIQ_SIZE
    traced = trace(model.network, torch.zeros(1, 3, *size))
    lineage = Lineage(traced)
    found = branches(lineage) if lineage.convolutions else ()
    tokens = tokens_instead(lineage)
    recommended = (tokens.node,) if tokens else tuple(branch.cuts[-1].node for branch in found if not branch.problem)
    grids = token_grids(lineage) if tokens or not recommended else ()
    if not (found or grids):
        branches(lineage)  # says what is missing
    spectra = measure_blocks(traced)
    problems = filter(None, (branch.problem for branch in found))
    remarks = [f"no cut is recommended: {each}; name the tensor with --position NODE" for each in problems]
    if tokens:
        remarks = [f"the last position of this transformer is {tokens.node}; name others with --position NODE"]
    if FIXED_SIZE in traced.meta:
        remarks.append("its graph serves images of {}x{} only".format(*traced.meta[FIXED_SIZE]))
    blocks = tuple(spectrum.name for spectrum in spectra)
    return Inspection(
        name=model.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=size,
        cuts=tuple(cut for branch in found for cut in branch.cuts),
        recommended=recommended,
        grids=grids,
        blocks=blocks,
        spectra=spectra,
        remarks=(*remarks, *(f"{name} is a RobustBlock already" for name in blocks)),
    )


def keep_source(model: QualityModel, leaves: tuple[str, ...], *, allow: bool) -> None:
    """Mark modules of a model, in place, that surgery passes by: those named and, where allowed, all that it cannot do.

    Those that cannot be traced or stored are looked for from the innermost outwards. What the network's own forward
    does cannot be passed by; hardening then says why. A module that is not there is a ModelLoadError.
    """
    for path in leaves:
        _mark(model.network, path)
    size = model.preprocessing.size or KONIQ_SIZE
    while allow:
        try:
            encode_network(trace(model.network, torch.zeros(1, 3, *size)))
            return
        except (SurgeryError, FormatError) as error:
            place, reason = str(getattr(error, "place", getattr(error.__cause__, "place", ""))), str(error)
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
