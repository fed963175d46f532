"""Find out where a block can stand in a model, and what the blocks it has do to norms."""

from dataclasses import dataclass

import torch

from iqa_armor.graph.interpret import FIXED_SIZE
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import KONIQ_SIZE, QualityModel
from iqa_armor.surgery.spectra import BlockSpectrum, measure_blocks
from iqa_armor.surgery.stages import Cut, branches, tokens_instead
from iqa_armor.surgery.tokens import Lineage, TokenGrid, token_grids


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
    if tokens:
        remarks = [f"the last position of this transformer is {tokens.node}; name others with --position NODE"]
    else:
        problems = [branch.problem for branch in found if branch.problem]
        remarks = [f"no cut is recommended: {each}; name the tensor with --position NODE" for each in problems]
    fixed = traced.meta.get(FIXED_SIZE)
    serves = [] if fixed is None else ["its graph serves images of {}x{} only".format(*fixed)]
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
        remarks=(*remarks, *serves, *(f"{name} is a RobustBlock already" for name in blocks)),
    )
