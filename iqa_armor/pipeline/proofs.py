"""Proofs that surgery changed nothing but what it says."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.graph.follow import FIXED_SIZE
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import QualityModel
from iqa_armor.pruning.channels.proof import is_steady

logger = logging.getLogger(__name__)
IMAGES = 4
TOLERANCE = 1e-6  # of the scores' spread; a step that copies calls copies bits


@dataclass(frozen=True)
class SurgeryProof:
    """One step of surgery, compared with what it must equal.

    Args:
        step: What equals what.
        difference: Largest difference of scores, in their spread; None where scores are random, or depend on the
            other images of a batch, so that there is nothing to compare.
        tolerance: How large it may be.
    """

    step: str
    difference: float | None
    tolerance: float


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch.nn's transformer layers from another way of computing, which rounds otherwise."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def traced_for(model: QualityModel, examples: Tensor) -> fx.GraphModule:
    """Return the graph of a model's network; a SurgeryError where it serves one size that nobody has named."""
    traced = trace(model.network, examples[:1])
    if FIXED_SIZE in traced.meta and model.preprocessing.size is None:
        raise SurgeryError(
            "this network asks for the size of its images, so its graph serves one size only; name that size with "
            "--input-size HEIGHTxWIDTH"
        )
    return traced


def prove_spliced(original: nn.Module, spliced: nn.Module, images: Tensor) -> SurgeryProof:
    """Return the proof that a traced network with empty places for blocks computes what the original does.

    Args:
        original: Network in eval mode.
        spliced: Its graph.
        images: Normalised input (N, 3, H, W), N at least 2.

    Raises:
        SurgeryError: If it computes something else: tracing froze what changes from call to call.
    """
    images = images[:IMAGES]
    step = "spliced = original"
    if not is_steady(original, images):
        logger.warning(
            "scores of this network are random, or depend on the other images of a batch: the same image need not "
            "have the same score, figures of attacks on it are uncertain, and surgery cannot be proved"
        )
        return SurgeryProof(step, None, TOLERANCE)
    with torch.no_grad(), _plain_attention():
        before, after = (network.forward(images).double().flatten() for network in (original, spliced))
    spread = max(float(before.std(correction=0)), 1e-6 * float(before.abs().max()), 1e-12)
    apart = float((before - after).abs().max()) / spread
    if not apart <= TOLERANCE:
        raise SurgeryError(
            f"the traced network is not the original: scores differ by {apart:.2g} of their spread; its forward does "
            "something that a trace cannot hold, such as drawing numbers outside torch or keeping values between calls"
        )
    return SurgeryProof(step, apart, TOLERANCE)
