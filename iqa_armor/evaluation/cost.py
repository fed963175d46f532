"""What a model costs to run."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from iqa_armor.attacks.base import frozen
from iqa_armor.models.base import QualityModel


def count_flops(model: QualityModel, image: Tensor) -> int:
    """Return the floating-point operations of scoring one prepared image (3, H, W), the same on every device.

    Convolutions, matrix products and weighted sums of table rows (embedding bags) are counted, two operations per
    multiply-add; attention is counted as the products it is made of, however a device fuses them. FFTs and
    element-wise work are not counted, nor what a first call prepares for all later ones. So an AOC or AOL layer of
    k × k taps costs 2·k²·C_in·C_out·H·W, as one plain convolution; a Cayley layer costs its inverse as it is applied in
    the spectrum, 8·F·C_in² for the F = H·W/2 or little more frequencies that determine a real map, and the plain
    convolution of its other C_out − C_in channels.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_TABLE_SUMS)
    batch, mha = image.unsqueeze(0).to(model.mean.device), torch.backends.mha
    # Attention runs as matrix products: some devices have one kernel for all of it, which hides them.
    with frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), ExitStack() as stack:
        stack.callback(mha.set_fastpath_enabled, mha.get_fastpath_enabled())
        mha.set_fastpath_enabled(False)
        model(batch)
        with counter:
            model(batch)
    return int(counter.get_total_flops())


# On a processor a Cayley layer sums table rows where it multiplies matrices elsewhere.
_TABLE_SUMS: dict[Any, Any] = dict.fromkeys(
    (torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only),
    lambda table, places, *_, **__: 2 * places[0] * table[1],
)
