"""Give pruned layers back what the removed channels contributed on average."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from iqa_armor.graph.trace import evaluating
from iqa_armor.pruning.samples import channel_axis

Hook = Callable[[str, Any, tuple[Tensor, ...], Tensor], Tensor | None]  # of a module's name, it, its inputs and output
BIASED = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Statistics = tuple[Tensor, Tensor]  # mean and variance (C,) of each channel over images and pixels


def kept_statistics(
    network: fx.GraphModule, kept: Mapping[str, list[int]], calibration: Tensor
) -> dict[str, Statistics]:
    """Return statistics before pruning of the channels that stay, by module, on a normalised input (N, 3, H, W).

    Of outputs where there is a bias, of inputs of batch norms; modules that `kept` does not name keep all channels.
    """
    found: dict[str, Statistics] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        mean, variance = _statistics(module, inputs[0] if isinstance(module, NORMS) else output)
        keep = kept.get(name, list(range(len(mean))))
        found[name] = mean[keep], variance[keep]

    _run(network, calibration, record)
    return found


def recalibrate(pruned: fx.GraphModule, targets: Mapping[str, Statistics], calibration: Tensor) -> None:
    """Match a pruned network's channel statistics to those before pruning, in place, from input to output.

    A bias absorbs the change of its layer's mean output. A batch norm's running mean and variance move by the change of
    its input's: a re-estimate from few images would be less precise. Every layer sees those before it corrected; those
    that run more than once are left alone. The targets are what `kept_statistics` gave for the same input.

    Source: ours; bias correction as in Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019, Section 4.2, here for pruning.
    """

    def correct(name: str, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if name not in targets:
            return None
        is_norm, (before, spread) = isinstance(module, NORMS), targets[name]
        mean, variance = _statistics(module, inputs[0] if is_norm else output)
        change = before - mean
        if not is_norm:
            module.bias += change
            return output + change.view(-1, *[1] * (output.ndim - 1 - channel_axis(module, output)))
        module.running_mean -= change
        tiny = torch.finfo(variance.dtype).tiny
        # A channel that is constant on the calibration images says nothing about its variance.
        scale = torch.where(spread > 1e-12, variance / spread.clamp_min(tiny), 1.0)
        module.running_var *= scale.clamp(0.1, 10.0)
        return cast(Tensor, module.forward(inputs[0]))

    _run(pruned, calibration, correct)


def _run(network: fx.GraphModule, calibration: Tensor, hook: Hook) -> None:
    called = [network.get_submodule(str(node.target)) for node in network.graph.nodes if node.op == "call_module"]
    counts = Counter(map(id, called))
    with ExitStack() as hooks, evaluating(network), torch.no_grad():
        for name, module in network.named_modules():
            held = "bias" if isinstance(module, BIASED) else "running_mean" if isinstance(module, NORMS) else ""
            # One that runs on several inputs has no statistics of its own.
            if counts[id(module)] == 1 and getattr(module, held, None) is not None:
                hooks.enter_context(module.register_forward_hook(partial(hook, name)))
        network(calibration)


def _statistics(module: nn.Module, values: Tensor) -> Statistics:
    """Return statistics per channel of what a layer gives or, of a batch norm, gets."""
    channel = channel_axis(module, values)
    axes = tuple(axis for axis in range(values.ndim) if axis != channel)
    variance, mean = torch.var_mean(values, dim=axes, correction=0)
    return mean, variance
