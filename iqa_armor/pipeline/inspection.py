"""Find out where a block can stand in a model, and what the blocks it has do to norms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from iqa_armor.models.base import KONIQ_SIZE, QualityModel
from iqa_armor.pipeline.spectra import BlockSpectrum, measure_blocks
from iqa_armor.surgery import Cut, branches, trace


@dataclass(frozen=True)
class Inspection:
    """The cuts of a model and the blocks it has already.

    Args:
        name: What the model is called.
        parameters: Their number.
        input_size: (height, width) that sizes refer to.
        cuts: Every cut, by branch and position.
        recommended: Nodes that `--position last` takes.
        blocks: Modules of the model that are RobustBlocks already.
        spectra: Their measured singular values and those of the layers behind them.
        remarks: What a user should know beside the table.
    """

    name: str
    parameters: int
    input_size: tuple[int, int]
    cuts: tuple[Cut, ...]
    recommended: tuple[str, ...]
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
        SurgeryError: If it cannot be traced, or has no convolution.
    """
    size = model.preprocessing.size or KONIQ_SIZE
    traced = trace(model.network, torch.zeros(1, 3, *size))
    found = branches(traced)
    remarks = [
        f"no cut is recommended: {branch.problem}; name the tensor with --position NODE"
        for branch in found
        if branch.problem
    ]
    spectra = measure_blocks(traced)
    blocks = tuple(spectrum.name for spectrum in spectra)
    remarks += [f"{name} is a RobustBlock already" for name in blocks]
    return Inspection(
        name=model.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=size,
        cuts=tuple(cut for branch in found for cut in branch.cuts),
        recommended=tuple(branch.cuts[-1].node for branch in found if not branch.problem),
        blocks=blocks,
        spectra=spectra,
        remarks=tuple(remarks),
    )
