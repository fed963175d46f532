"""Remove the least important channels of a traced network."""

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.models.outputs import is_steady
from iqa_armor.models.weights import listed
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.pruning import CRITERIA
from iqa_armor.pruning.channels.proof import difference
from iqa_armor.pruning.coupling import Coupling, Cut
from iqa_armor.pruning.criteria import Criterion, Evidence, importance_of
from iqa_armor.pruning.samples import Inputs, LabelledBatches, kept_statistics, pooled_inputs, recalibrate
from iqa_armor.pruning.widths import decide, ranked

PROOF_IMAGES = 4
PROOF_TOLERANCE = 1e-4  # of the scores' spread


@dataclass(frozen=True)
class Pruned:
    """A pruned copy and what was removed; pairs are (before, after).

    The proof is the largest difference, in the scores' spread, between the network before any correction and the
    original with what was removed set to zero, which normalises over what stays at nodes in `across`; None where the
    original's scores are random, or depend on the other images of a batch.
    """

    network: fx.GraphModule
    share: float  # removed of the convolutions' output channels, in [0, 1)
    round_to: int  # multiple that the kept widths were rounded to
    channels: tuple[int, int]  # sums of the convolutions' output channels
    parameters: tuple[int, int]
    samples: int = 0  # number of labelled images that importance was measured on
    kept: dict[str, list[int]] = field(default_factory=dict)  # as in `Cut`, ascending
    widths: dict[str, int] = field(default_factory=dict)
    proof: float | None = None
    stays: dict[str, str] = field(default_factory=dict)  # by node, why channels that it reads or makes stay
    across: tuple[str, ...] = ()

    @property
    def why_less(self) -> str:
        """Why not more could go, with the first nodes of each reason."""
        nodes: dict[str, list[str]] = {}
        for node, why in self.stays.items():
            nodes.setdefault(why, []).append(node)
        return "; ".join(f"{why} ({listed(where, 3)})" for why, where in nodes.items()) or "its layers are too narrow"

    def facts(self) -> dict[str, object]:
        """Return everything but the network, as plain values; layers that keep the same channels stand together."""
        alike: dict[tuple[int, str], list[str]] = {}
        for name, channels in self.kept.items():
            alike.setdefault((self.widths[name], _as_ranges(channels)), []).append(name)
        return {
            "share": self.share,
            "round_to": self.round_to,
            "channels": list(self.channels),
            "parameters": list(self.parameters),
            "samples": self.samples,
            "proof": self.proof,
            "stays": self.stays,
            "normalized_over_channels": list(self.across),
            "kept": [{"layers": names, "of": width, "channels": text} for (width, text), names in alike.items()],
        }


def prune(
    traced: fx.GraphModule,
    calibration: Tensor,
    *,
    ratio: float = 0.10,
    criterion: str | Criterion = "taylor",
    across_layers: bool = False,
    halved: Collection[int] = (),
    samples: LabelledBatches | None = None,
    seed: int = 0,
) -> Pruned:
    """Return a copy of a network, which stays untouched, without the least important channels of its convolutions.

    Which they are is decided first (see `decide`); exactly those are cut, and the result is proved to be the original
    with them set to zero. What they contributed on average is then folded into the biases and batch-norm statistics
    behind them (ours; see `recalibrate`).

    Args:
        traced: Traced network.
        calibration: Normalised input (N, 3, H, W) on the network's device, clean training images.
        ratio: Share of channels to remove, in [0, 1).
        criterion: Measure of importance, or a word that names one in `CRITERIA`.
        across_layers: Rank channels across layers instead of within each.
        halved: Widths of tensors whose half should be a multiple as well, since a block will work on it; so they become
            where that costs little.
        samples: Labelled images, for the criteria that take them; gone through once.
        seed: Of what a criterion draws.

    Raises ValueError if the ratio is not allowed, or the criterion lacks what it needs, UsageError if there is none of
    that name, SurgeryError if the network's channels cannot be followed, or the proof fails.

    Source: [RA] Section 3. Channels are followed by our own labels (see `Labelling`), not by a dependency graph.
    """
    measure = CRITERIA.read(criterion) if isinstance(criterion, str) else criterion
    _check(traced, ratio, measure, across_layers=across_layers, has_samples=samples is not None)
    inputs = pooled_inputs(traced, samples or ()) if measure.takes_samples else Inputs()
    evidence = Evidence(torch.Generator().manual_seed(seed), inputs, across_layers, network=traced, images=calibration)
    coupling = Coupling(traced, calibration[:1])
    pruned, before = None, _sizes(traced)
    while pruned is None:  # a cut that would break the network lets further channels stay, so this ends
        importance = [(group, importance_of(group, measure, evidence)) for group in coupling.groups]
        groups = [ranked(group, values) for group, values in importance if values is not None]
        decision = decide(groups, channels=before[0], ratio=ratio, across_layers=across_layers, halved=halved)
        pruned = coupling.cut(decision.removed)
    proof, after = _proved(traced, pruned, coupling, calibration), _sizes(pruned.network)
    recalibrate(pruned.network, kept_statistics(traced, pruned.kept, calibration), calibration)
    return Pruned(
        pruned.network,
        share=1 - after[0] / max(before[0], 1),
        round_to=decision.multiple,
        channels=(before[0], after[0]),
        parameters=(before[1], after[1]),
        samples=len(inputs.labels),
        kept=pruned.kept,
        widths=pruned.widths,
        proof=proof,
        stays=coupling.reasons,
        across=tuple(sorted(node.name for node in coupling.labelling.across)),
    )


def _proved(traced: fx.GraphModule, pruned: Cut, coupling: Coupling, calibration: Tensor) -> float | None:
    """Return the proof, as `Pruned` has it; refuse a network that is far from the original."""
    images = calibration[:PROOF_IMAGES]
    apart = difference(traced, pruned.network, coupling.labelling, pruned.gone, images)
    if apart <= PROOF_TOLERANCE or not is_steady(traced, images):
        return apart if apart <= PROOF_TOLERANCE else None
    raise SurgeryError(
        f"the pruned network is not the original without the removed channels: scores differ by {apart:.2g} of "
        "their spread. --prune 0 skips pruning"
    )


def _check(traced: fx.GraphModule, ratio: float, measure: Criterion, *, across_layers: bool, has_samples: bool) -> None:
    name = type(measure).__name__
    if not 0 <= ratio < 1:
        raise ValueError(f"the pruning ratio must be in [0, 1), got {ratio}")
    if measure.takes_samples and not has_samples:
        raise ValueError(f"the criterion {name} must be given labelled images; pass samples")
    if measure.across_layers and not across_layers:
        raise ValueError(f"the criterion {name} must rank across layers; pass across_layers=True")
    if any(isinstance(module, RobustBlock) for module in traced.modules()):
        raise SurgeryError(
            "this model already holds a RobustBlock, which pruning would break; harden the original model, or "
            "pass --prune 0"
        )


def _as_ranges(numbers: list[int]) -> str:
    """Return ascending numbers as text: "0-3,7,9-12"."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _sizes(network: nn.Module) -> tuple[int, int]:
    """Return the numbers of all convolutions' output channels and of all parameters."""
    channels = sum(m.out_channels for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd))
    return channels, sum(parameter.numel() for parameter in network.parameters())
