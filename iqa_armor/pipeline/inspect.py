"""Find out where a block can stand in a model, and what the blocks it has do to norms."""

from dataclasses import dataclass

import torch
from torch import fx

from iqa_armor.graph.interpret import FIXED_SIZE
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import KONIQ_SIZE, QualityModel
from iqa_armor.surgery.spectra import BlockSpectrum, measure_blocks
from iqa_armor.surgery.stages import Branch, Cut, branches, tokens_instead
from iqa_armor.surgery.tokens import Lineage, TokenGrid, token_grids


@dataclass(frozen=True)
class Inspection:
    """The cuts of a model by branch and position, and the blocks it has already.

    Args:
        input_size: (height, width) that sizes refer to.
        recommended: Nodes that `--position last` takes.
        grids: Tokens on which a block can stand, where no cut of the convolutions is recommended.
        blocks: Modules of the model that are RobustBlocks already.
        spectra: Their measured singular values and those of the layers behind them.
    """

    name: str
    parameters: int
    input_size: tuple[int, int]
    cuts: tuple[Cut, ...]
    recommended: tuple[str, ...]
    grids: tuple[TokenGrid, ...]
    blocks: tuple[str, ...]
    spectra: tuple[BlockSpectrum, ...]
    remarks: tuple[str, ...]


def inspect_model(model: QualityModel) -> Inspection:
    """Trace a model, find its cuts and measure its blocks.

    Raises:
        SurgeryError: If it cannot be traced, or has neither a convolution nor tokens.
    """
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
        remarks=(*_remarks(found, tokens), *_serves(traced), *(f"{name} is a RobustBlock already" for name in blocks)),
    )


def _serves(traced: fx.GraphModule) -> list[str]:
    fixed = traced.meta.get(FIXED_SIZE)
    return [] if fixed is None else ["its graph serves images of {}x{} only".format(*fixed)]


def _remarks(found: tuple[Branch, ...], tokens: TokenGrid | None) -> list[str]:
    if tokens:
        return [f"the last position of this transformer is {tokens.node}; name others with --position NODE"]
    problems = [branch.problem for branch in found if branch.problem]
    return [f"no cut is recommended: {problem}; name the tensor with --position NODE" for problem in problems]
