"""Which widths pruned layers keep."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

# A multiple to round widths to, and the share of it that is added before rounding down: 0 rounds down, 1/2 to the
# nearest. Processors work on channels by sixteens.
ROUNDINGS = (*((multiple, lift) for multiple in (16, 8, 4) for lift in (0.0, 0.25, 0.5)), (1, 0.5))
TOLERANCE = 0.015  # of the removed share, so 10 % may become 8.5 to 11.5 %
EXCESS = 0.16  # a layer may lose this share more than asked for: 64 → 48 channels, not 32 → 16


@dataclass(frozen=True)
class Rounding:
    """How the widths that layers keep are rounded.

    Args:
        multiple: What they are multiples of.
        lift: Share of it that is added before rounding down: 0 rounds down, 1/2 to the nearest.
        halved: Original widths that are rounded down to twice the multiple where that takes at most 3 % more of them.
    """

    multiple: int
    lift: float
    halved: frozenset[int] = frozenset()

    def kept(self, width: int, ratio: float) -> int:
        """Return how many of `width` channels stay when a share of `ratio` should go."""
        share, double = (1 - ratio) * width, 2 * self.multiple
        even = math.floor(share / double) * double
        if width in self.halved and share - even <= TOLERANCE * 2 * width:
            return even
        return min(math.floor(share / self.multiple + self.lift) * self.multiple, width) or width


def promising(
    network: nn.Module, ratio: float, *, across_layers: bool = False, halved: Collection[int] = ()
) -> list[Rounding]:
    """Return the roundings that are worth trying, in order; the last of all is always among them.

    Layers that are coupled may end at other widths than by themselves, so a forecast is trusted to twice the tolerance.
    Roundings that would take much more than its share from a narrow layer are left out.
    Ranked across layers, widths are not foreseen, and only rounding down exists.

    Args:
        network: What is to be pruned.
        ratio: Share of channels to remove, in [0, 1).
        across_layers: Whether channels are ranked across layers.
        halved: As in `Rounding`.
    """
    roundings = [Rounding(multiple, lift, frozenset(halved)) for multiple, lift in ROUNDINGS]
    if across_layers:
        return [rounding for rounding in roundings if rounding.lift == 0 or rounding.multiple == 1]
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd)]

    def forecast(rounding: Rounding) -> float:
        return 1 - sum(rounding.kept(width, ratio) for width in widths) / max(sum(widths), 1)

    def is_promising(rounding: Rounding) -> bool:
        most = max((1 - rounding.kept(width, ratio) / width for width in widths), default=0.0)
        return abs(forecast(rounding) - ratio) <= 2 * TOLERANCE and most <= ratio + EXCESS

    return [rounding for rounding in roundings if is_promising(rounding) or rounding is roundings[-1]]


def ratios(network: nn.Module, ratio: float, rounding: Rounding) -> dict[nn.Module, float]:
    """Return the ratio per convolution that leaves its share of the channels, rounded.

    torch-pruning itself rounds widths down. Half a channel less is asked for, so that its arithmetic cannot cut one
    too many.
    """
    widths = {m: m.out_channels for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd)}
    return {m: max(0.0, (width - rounding.kept(width, ratio) - 0.5) / width) for m, width in widths.items()}
