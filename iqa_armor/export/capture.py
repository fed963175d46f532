"""From a quality model to one captured graph: images in [0, 1] in, scores out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from iqa_armor.errors import NETWORK_FAILURES, ArmorError
from iqa_armor.models.base import QualityModel
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.ortho.layer import OrthogonalConv2d

Sizes = dict[str, set[tuple[int, int]]]


@dataclass(frozen=True)
class Captured:
    """A captured graph and what it accepts.

    Args:
        program: Takes `images` (N, 3, H, W) float32 in [0, 1], gives scores (N,).
        size: (H, W) it accepts, None where that side is free.
    """

    program: ExportedProgram
    size: tuple[int | None, int | None]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(value.nbytes for value in self.program.state_dict.values())


class Scorer(nn.Module):
    """A quality model without its checks: normalisation, network, (N,) scores.

    Args:
        network: Module on normalised input.
        model: Where the normalisation comes from.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, model: QualityModel) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", model.mean.detach().clone())
        self.register_buffer("std", model.std.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N,) of images (N, 3, H, W)."""
        scores: Tensor = self.network((images - self.mean) / self.std)
        return scores.reshape(-1)


def reference_copy(model: QualityModel) -> QualityModel:
    """Return a copy of a model as it is exported: in eval mode, float32, on the CPU, without gradients."""
    return copy.deepcopy(model).eval().float().cpu().requires_grad_(False)


def layer_sizes(model: QualityModel, images: Tensor) -> Sizes:
    """Return the map sizes (H, W) that reach each orthogonal layer, by qualified name in `model.network`.

    Raises:
        ArmorError: If the model does not take such images.
    """
    sizes: Sizes = {}
    handles = []
    for name, module in model.network.named_modules():
        if isinstance(module, OrthogonalConv2d):
            seen = sizes.setdefault(name, set())
            handles.append(module.register_forward_pre_hook(_noting(seen)))
    try:
        eager_scores(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def _noting(seen: set[tuple[int, int]]) -> Any:
    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.add((inputs[0].shape[-2], inputs[0].shape[-1]))

    return note


def eager_scores(model: QualityModel, images: Tensor) -> Tensor:
    """Return a model's own scores (N,) of images (N, 3, H, W).

    Raises:
        ArmorError: If the model does not take such images.
    """
    try:
        with torch.no_grad():
            scores: Tensor = model(images)
    except NETWORK_FAILURES as error:
        raise ArmorError(
            f"{model.name} fails on images {tuple(images.shape)}: {first_line(error)}; give the size that it "
            "takes with --input-size HEIGHTxWIDTH"
        ) from error
    return scores


def layer_of_one_size(model: QualityModel) -> OrthogonalConv2d | None:
    """Return an orthogonal layer of a model whose exported form serves one map size, None where there is none."""
    layers = (layer for layer in model.network.modules() if isinstance(layer, OrthogonalConv2d))
    return next((layer for layer in layers if not layer.fits_any_size), None)


def plain_scorer(model: QualityModel, sizes: Sizes) -> Scorer:
    """Return a copy of a model in which every orthogonal layer is folded into plain operations.

    Args:
        model: Left untouched.
        sizes: What `layer_sizes` found for the size to export.

    Raises:
        ArmorError: If a layer whose form fits one map size is used at several or none.
    """
    holder = nn.ModuleDict({"network": copy.deepcopy(model.network)})
    blocks = {name: module for name, module in holder.named_modules() if isinstance(module, RobustBlock)}
    layers = {name: module for name, module in holder.named_modules() if isinstance(module, OrthogonalConv2d)}
    for name, layer in layers.items():
        size = _one_size(name, layer, sizes)
        parent = name.rpartition(".")[0]
        if parent in blocks:
            holder.set_submodule(parent, blocks[parent].plain(size))
        else:
            holder.set_submodule(name, layer.plain(size))
    return Scorer(holder["network"], model).eval()


def _one_size(name: str, layer: OrthogonalConv2d, sizes: Sizes) -> tuple[int, int]:
    found = sizes[name.removeprefix("network").removeprefix(".")]
    if len(found) != 1 and not layer.fits_any_size:
        used = ", ".join("{}x{}".format(*size) for size in sorted(found)) or "none"
        raise ArmorError(
            f"the layer {name} ({type(layer).__name__}) serves one map size in an export, but this model uses it at "
            f"{used}"
        )
    return min(found, default=(1, 1))


def capture(scorer: Scorer, images: Tensor, *, is_dynamic: bool) -> Captured:
    """Return the graph of a scorer, for any number of images.

    Args:
        scorer: Module of plain operations.
        images: Example (N ≥ 2, 3, H, W).
        is_dynamic: Whether other image sizes are accepted too, as far as the network allows.

    Raises:
        ArmorError: If the network does something that a graph cannot hold; names it.
    """
    free: dict[int, Any] = {0: Dim.DYNAMIC(min=1)}
    if is_dynamic:
        free |= {2: Dim.AUTO, 3: Dim.AUTO}
    try:
        with torch.no_grad(), _without_notes():
            program = torch.export.export(scorer, (images,), dynamic_shapes=(free,))
    except NETWORK_FAILURES as error:
        raise ArmorError(f"torch.export cannot capture this network: {first_line(error)}") from error
    (placeholder,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    height, width = (side if isinstance(side, int) else None for side in placeholder.meta["val"].shape[2:])
    return Captured(program, (height, width))


@contextmanager
def _without_notes() -> Iterator[None]:
    """Keep torch from logging the traceback of every relation between sizes that it cannot simplify."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
