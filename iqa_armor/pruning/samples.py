"""What the layers of a network read on images: for criteria, and to give back what removed channels contributed."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError, failing
from iqa_armor.graph.trace import evaluating

# Batches of normalised images (N, 3, H, W) on the network's device with their labels (N,).
LabelledBatches = Iterable[tuple[Tensor, Tensor]]
Reader = nn.modules.conv._ConvNd | nn.Linear
BLIND = "scores of this network have no gradient, as behind argmax; pass --criterion l1"
EFFECT_BATCH = 4  # images whose gradients are held at once
CONSTANT = 1e-6  # of a channel's mean: below this its spread over images is rounding
Hook = Callable[[str, Any, tuple[Tensor, ...], Tensor], Tensor | None]  # of a module's name, it, its inputs and output
BIASED = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Statistics = tuple[Tensor, Tensor]  # mean and variance (C,) of each channel over images and pixels


@dataclass(frozen=True)
class Inputs:
    """What convolutions and linear layers read, by name, on images with labels (n,), float64 on the CPU."""

    pooled: dict[str, Tensor] = field(default_factory=dict)  # means (n, C) over all places of each channel
    labels: Tensor = field(default_factory=lambda: torch.zeros(0))


def pooled_inputs(network: nn.Module, batches: LabelledBatches) -> Inputs:
    """Return the pooled inputs of every convolution and linear layer; restores the network's mode.

    Of several runs of a layer, or crops of an image side by side, that is the mean. Raises SurgeryError if a layer does
    not see each image by itself, and ValueError if there are no images.
    """
    parts: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    runs: dict[str, list[Tensor]] = {}

    def record(name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0]
        places = tuple(axis for axis in range(1, values.ndim) if axis != channel_axis(module, values))
        runs.setdefault(name, []).append((values.mean(dim=places) if places else values).double().cpu())

    with ExitStack() as hooks, evaluating(network), torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, Reader):
                hooks.enter_context(module.register_forward_pre_hook(partial(record, name)))
        for images, scores in batches:
            runs.clear()
            network(images)
            labels.append(scores.double().cpu())
            for name, seen in runs.items():
                parts.setdefault(name, []).append(_per_image(name, seen, len(images)))
    if not labels:
        raise ValueError("this criterion needs labelled images, got none")
    return Inputs({name: torch.cat(part) for name, part in parts.items()}, torch.cat(labels))


def _per_image(name: str, seen: list[Tensor], images: int) -> Tensor:
    """Return the mean (N, C) over a layer's runs on a batch of N images."""
    for values in seen:
        if len(values) % images:
            raise SurgeryError(
                f"layer {name!r} reads {len(values)} rows for {images} images, so no row belongs to one image; "
                "take a criterion that needs no images, such as --criterion l1"
            )
    return torch.stack([values.view(images, -1, values.shape[1]).mean(dim=1) for values in seen]).mean(dim=0)


def score_effects(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return what each channel that a layer reads does to the scores, to first order; restores the network's mode.

    Of images (N, 3, H, W): a·∂score/∂a (N, C) by layer, summed over places and runs of a channel a, float64 on the CPU.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Reader)}
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    read: list[tuple[str, Tensor]] = []

    def note(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not given[0].requires_grad:
            return given  # a table of the network's own, such as places relative to each other
        read.append((name, given[0].clone()))  # a copy, so that its gradient is through this layer alone
        return (read[-1][1], *given[1:])

    with ExitStack() as hooks, evaluating(network), torch.enable_grad():
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(partial(note, name)))
        for batch in torch.split(images, EFFECT_BATCH):
            read.clear()
            gradients = _gradients(network(batch.detach().requires_grad_()), [values for _, values in read])
            runs: dict[str, list[Tensor]] = {}
            for (name, values), gradient in zip(read, gradients, strict=True):
                effect = (values.detach() * gradient).movedim(channel_axis(layers[name], values), -1)
                runs.setdefault(name, []).append(effect.reshape(len(batch), -1, effect.shape[-1]).sum(dim=1))
            for name, effects in runs.items():
                found[name].append(torch.stack(effects).sum(dim=0).double().cpu())
    return {name: torch.cat(parts) for name, parts in found.items() if parts}


def _gradients(scores: Tensor, values: list[Tensor]) -> list[Tensor]:
    if not scores.requires_grad:
        raise SurgeryError(BLIND)
    with failing("scores of this network cannot be differentiated", error=SurgeryError, advice="pass --criterion l1"):
        found = torch.autograd.grad(scores.sum(), values, materialize_grads=True)
    # A root at 0 has no gradient, such as a deviation over a flat map.
    return [gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in found]


def checked(activations: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return activations (n, C) and labels (n,) as float64.

    Raises ValueError if they do not pair up, are fewer than 3, not finite, or the labels all the same.
    """
    if activations.ndim != 2 or labels.shape != activations.shape[:1]:
        shapes = f"{tuple(activations.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"activations (n, C) and labels (n,) must pair up, got {shapes}")
    if len(labels) < 3:
        raise ValueError(f"at least 3 samples are needed, got {len(labels)}")
    activations, labels = activations.double(), labels.double()
    if not (activations.isfinite().all() and labels.isfinite().all()):
        raise ValueError("activations and labels must be finite; the network gives NaN or infinity inside")
    if bool((labels == labels[0]).all()):
        raise ValueError(f"the labels must differ, all are {float(labels[0])}")
    return activations, labels


def varies(activations: Tensor) -> Tensor:
    """Return which channels (C,) of activations (n, C) are more than rounding around a constant."""
    return activations.std(dim=0) > CONSTANT * activations.abs().mean(dim=0)


def channel_axis(module: nn.Module, values: Tensor) -> int:
    """Return the axis of a layer's channels: the last of a linear layer, the second of all others."""
    return values.ndim - 1 if isinstance(module, nn.Linear) else 1


def kept_statistics(network: fx.GraphModule, kept: Mapping[str, list[int]], images: Tensor) -> dict[str, Statistics]:
    """Return statistics before pruning of the channels that stay, by module, on a normalised input (N, 3, H, W).

    Of outputs where there is a bias, of inputs of batch norms; modules that `kept` does not name keep all channels.
    """
    found: dict[str, Statistics] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        mean, variance = _statistics(module, inputs[0] if isinstance(module, NORMS) else output)
        keep = kept.get(name, list(range(len(mean))))
        found[name] = mean[keep], variance[keep]

    _run(network, images, record)
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
    channel = channel_axis(module, values)
    axes = tuple(axis for axis in range(values.ndim) if axis != channel)
    variance, mean = torch.var_mean(values, dim=axes, correction=0)
    return mean, variance
