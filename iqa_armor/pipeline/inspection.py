"""Find out where a block can stand in a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from iqa_armor.models.base import KONIQ_SIZE, QualityModel
from iqa_armor.ortho import RobustBlock
from iqa_armor.surgery import Cut, branches, trace


@dataclass(frozen=True)
class Inspection:
    """The cuts of a model.

    Args:
        name: What the model is called.
        parameters: Their number.
        input_size: (height, width) that sizes refer to.
        cuts: Every cut, by branch and position.
        recommended: Nodes that `--position last` takes.
        blocks: Modules of the model that are RobustBlocks already.
        remarks: What a user should know beside the table.
    """

    name: str
    parameters: int
    input_size: tuple[int, int]
    cuts: tuple[Cut, ...]
    recommended: tuple[str, ...]
    blocks: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def several_branches(self) -> bool:
        """Whether the network has more than one convolutional branch."""
        return any(cut.branch for cut in self.cuts)

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def inspect_model(model: QualityModel) -> Inspection:
    """Trace a model and find its cuts.

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
    blocks = [name for name, module in traced.named_modules() if isinstance(module, RobustBlock)]
    remarks += [f"{name} is a RobustBlock already" for name in blocks]
    return Inspection(
        name=model.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=size,
        cuts=tuple(cut for branch in found for cut in branch.cuts),
        recommended=tuple(branch.cuts[-1].node for branch in found if not branch.problem),
        blocks=tuple(blocks),
        remarks=tuple(remarks),
    )
