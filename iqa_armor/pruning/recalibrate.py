"""Give pruned layers back what the removed channels contributed on average."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from iqa_armor.graph.trace import evaluating

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]
BIASED = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Statistics:
    """Mean and variance (C,) of each channel over images and pixels."""

    mean: Tensor
    variance: Tensor


def kept_statistics(
    network: fx.GraphModule, kept: Mapping[str, list[int]], calibration: Tensor
) -> dict[str, Statistics]:
    """Return statistics of the layers before pruning, of the channels that stay.

    Args:
        network: The network before pruning.
        kept: Per module name, the output channels that stay; all of them for a module not named.
        calibration: Normalised input (N, 3, H, W).

    Returns:
        Per module name: of the output of layers with a bias, of the input of batch norms.
    """
    found: dict[str, Statistics] = {}

    def record(name: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            whole = _statistics(module, inputs[0] if isinstance(module, NORMS) else output)
            keep = kept.get(name, list(range(len(whole.mean))))
            found[name] = Statistics(whole.mean[keep], whole.variance[keep])

        return hook

    _run(network, calibration, record)
    return found


def recalibrate(pruned: fx.GraphModule, targets: Mapping[str, Statistics], calibration: Tensor) -> None:
    """Match a pruned network's channel statistics to those before pruning, in place, from input to output.

    A bias absorbs the change of its layer's mean output, which folds the mean of the removed channels into it. A
    batch norm's running mean and variance move by the change of its input's, which keeps the original statistics'
    precision where a re-estimate from few images would lose it. Every layer sees the layers before it corrected.
    Layers that run more than once are left alone.

    Args:
        pruned: Network after pruning, with the module names of before.
        targets: What `kept_statistics` gave.
        calibration: The same input (N, 3, H, W).

    Source: ours; bias correction as in Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019, Section 4.2, here for pruning.
    """

    def correct(name: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            target = targets.get(name)
            if target is None:
                return None
            if isinstance(module, NORMS):
                _shift_norm(module, _statistics(module, inputs[0]), target)
                return module.forward(inputs[0])
            change = target.mean - _statistics(module, output).mean
            bias: Any = module.bias
            bias += change
            return output + change.view(-1, *[1] * (output.ndim - 1 - _channel_axis(module, output)))

        return hook

    _run(pruned, calibration, correct)


def _run(network: fx.GraphModule, calibration: Tensor, make: Callable[[str], Hook]) -> None:
    once = _called_once(network)
    handles = [
        module.register_forward_hook(make(name))
        for name, module in network.named_modules()
        if (name in once and isinstance(module, BIASED) and module.bias is not None)
        or (name in once and isinstance(module, NORMS) and module.running_mean is not None)
    ]
    try:
        with evaluating(network), torch.no_grad():
            network(calibration)
    finally:
        for handle in handles:
            handle.remove()


def _called_once(network: fx.GraphModule) -> set[str]:
    """Return the names of the layers that run once: one that runs on several inputs has no statistics of its own."""
    called = [str(node.target) for node in network.graph.nodes if node.op == "call_module"]
    counts = Counter(id(network.get_submodule(name)) for name in called)
    return {name for name in called if counts[id(network.get_submodule(name))] == 1}


def _shift_norm(norm: Any, now: Statistics, before: Statistics) -> None:
    norm.running_mean += now.mean - before.mean
    tiny = torch.finfo(now.variance.dtype).tiny
    # A channel that is constant on the calibration images says nothing about its variance.
    scale = torch.where(before.variance > 1e-12, now.variance / before.variance.clamp_min(tiny), 1.0)
    norm.running_var *= scale.clamp(0.1, 10.0)


def _channel_axis(module: nn.Module, values: Tensor) -> int:
    """Return the axis of a layer's channels: the last of a linear layer, the second of all others."""
    return values.ndim - 1 if isinstance(module, nn.Linear) else 1


def _statistics(module: nn.Module, values: Tensor) -> Statistics:
    """Return statistics per channel of what a layer gives or, of a batch norm, gets."""
    channel = _channel_axis(module, values)
    axes = tuple(axis for axis in range(values.ndim) if axis != channel)
    variance, mean = torch.var_mean(values, dim=axes, correction=0)
    return Statistics(mean, variance)
