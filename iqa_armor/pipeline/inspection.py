"""Find out where a block can stand in a model, and what the blocks it has do to norms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from iqa_armor.models.base import KONIQ_SIZE, QualityModel
from iqa_armor.pipeline.spectra import BlockSpectrum, measure_blocks
from iqa_armor.surgery import Branch, Cut, Flow, TokenGrid, branches, token_grids, trace


@dataclass(frozen=True)
class Inspection:
    """The cuts of a model and the blocks it has already.

    Args:
        name: What the model is called.
        parameters: Their number.
        input_size: (height, width) that sizes refer to.
        cuts: Every cut, by branch and position.
        recommended: Nodes that `--position last` takes.
        grids: Tokens on which a block can stand, where no cut is recommended.
        blocks: Modules of the model that are RobustBlocks already.
        spectra: Their measured singular values and those of the layers behind them.
        remarks: What a user should know beside the table.
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

    @property
    def several_branches(self) -> bool:
        """Whether the network has more than one convolutional branch."""
        return any(cut.branch for cut in self.cuts)

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def inspect_model(model: QualityModel) -> Inspection:
    """Trace a model, find its cuts and measure its blocks.

    Args:
        model: Any model.

    Raises:
        SurgeryError: If it cannot be traced, or has neither a convolution nor tokens.
    """
    size = model.preprocessing.size or KONIQ_SIZE
    traced = trace(model.network, torch.zeros(1, 3, *size))
    flow = Flow(traced)
    found = branches(traced) if flow.convolutions else ()
    recommended = tuple(branch.cuts[-1].node for branch in found if not branch.problem)
    grids = () if recommended else token_grids(flow)
    if not (found or grids):
        branches(traced)  # says what is missing
    remarks = _remarks(found, grids)
    spectra = measure_blocks(traced)
    blocks = tuple(spectrum.name for spectrum in spectra)
    remarks += [f"{name} is a RobustBlock already" for name in blocks]
    return Inspection(
        name=model.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=size,
        cuts=tuple(cut for branch in found for cut in branch.cuts),
        recommended=recommended,
        grids=grids,
        blocks=blocks,
        spectra=spectra,
        remarks=tuple(remarks),
    )


def _remarks(found: tuple[Branch, ...], grids: tuple[TokenGrid, ...]) -> list[str]:
    if grids:
        return ["a transformer has no last cut; name the tokens to protect with --position NODE"]
    return [
        f"no cut is recommended: {branch.problem}; name the tensor with --position NODE"
        for branch in found
        if branch.problem
    ]
