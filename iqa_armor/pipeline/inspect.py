"""Find out where a block can stand in a model and what its blocks do to norms; prove what surgery left as it was."""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from iqa_armor.artifact.checks import FormatError
from iqa_armor.artifact.encode import encode_network
from iqa_armor.errors import ModelLoadError, SurgeryError
from iqa_armor.graph.calls import layer_of
from iqa_armor.graph.interpret import FIXED_SIZE, interpret
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import KONIQ_SIZE, QualityModel
from iqa_armor.models.outputs import is_steady, plain_attention
from iqa_armor.ortho.block import RobustBlock, TokenBlock
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.spectra import BlockSpectrum, measure_blocks
from iqa_armor.surgery.stages import Cut, branches, tokens_instead
from iqa_armor.surgery.tokens import Lineage, TokenGrid, token_grids

logger = logging.getLogger(__name__)
IMAGES = 4
BLOCKS = (RobustBlock, TokenBlock)
BLOCK_TOLERANCE = 1e-3  # of the values' spread; folding goes through other sums
TOLERANCE = 1e-6  # of the scores' spread; a step that copies calls copies bits
FAULT = "{step} does not hold: they differ by {apart:.2g} of their spread, above {tolerance:g}"


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


@dataclass(frozen=True)
class SurgeryProof:
    """How far a step of surgery is from what it must equal, in spreads; None where scores are random."""

    step: str
    difference: float | None
    tolerance: float


def prove_blocks(traced: fx.GraphModule, recipe: Recipe, images: Tensor) -> list[SurgeryProof]:
    """Return the proofs that blocks are what they fold into and, started as the identity, projections."""
    proofs: list[SurgeryProof] = []
    nodes = {node: layer for node in traced.graph.nodes if isinstance(layer := layer_of(traced, node), BLOCKS)}
    with torch.no_grad():
        fed = {source: value for source, value in interpret(traced, images[:IMAGES]) if nodes.keys() & source.users}
        for node, layer in nodes.items():
            value = fed[node.all_input_nodes[0]]
            maps, robust = (layer.maps(value), layer.block) if isinstance(layer, TokenBlock) else (value, layer)
            found = robust(maps)
            folded = robust.plain((found.shape[-2], found.shape[-1]))
            proofs.append(_shown_equal("folded = unfolded", found, folded(maps), BLOCK_TOLERANCE))
            if recipe.init == "identity" and recipe.pool == "none":
                proofs.append(_shown_equal("identity block = projection", found, robust(found), BLOCK_TOLERANCE))
    return proofs


def _shown_equal(step: str, before: Tensor, after: Tensor, tolerance: float, *, fault: str = FAULT) -> SurgeryProof:
    spread = max(float(before.std(correction=0)), 1e-6 * float(before.abs().max()), 1e-12)
    apart = float((before - after).abs().max()) / spread if before.shape == after.shape else math.inf
    if not apart <= tolerance:
        raise SurgeryError(fault.format(step=step, apart=apart, tolerance=tolerance))
    return SurgeryProof(step, apart, tolerance)


def traced_for(model: QualityModel, examples: Tensor) -> fx.GraphModule:
    """Return the graph of a model's network; a SurgeryError where it serves one size that nobody has named."""
    traced = trace(model.network, examples[:1])
    with torch.no_grad():
        model(torch.full_like(examples[:2], 0.5))  # refuses what gives no score per image
    if FIXED_SIZE in traced.meta and model.preprocessing.size is None:
        problem = "this network asks for the size of its images, so its graph serves one size only"
        raise SurgeryError(f"{problem}; name that size with --input-size HEIGHTxWIDTH")
    return traced


def found_steady(network: nn.Module, images: Tensor) -> bool:
    """Return whether an image has one score, and warn where it has not; `images` are (N, 3, H, W), N at least 2."""
    steady = is_steady(network, images[:IMAGES])
    if not steady:
        logger.warning(
            "scores of this network are random, or depend on the other images of a batch: the same image need not "
            "have the same score, figures of attacks on it are uncertain, and surgery cannot be proved"
        )
    return steady


def prove_same(
    step: str, original: nn.Module, other: nn.Module, images: Tensor, *, steady: bool, fault: str = FAULT
) -> SurgeryProof:
    """Return the proof that networks in eval mode score normalised images (N, 3, H, W) alike, or raise the `fault`."""
    if not steady:
        return SurgeryProof(step, None, TOLERANCE)
    with torch.no_grad(), plain_attention():
        before, after = (network.forward(images[:IMAGES]).double().flatten() for network in (original, other))
    return _shown_equal(step, before, after, TOLERANCE, fault=fault)
