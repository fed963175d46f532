"""Turn a network into a graph whose leaves are torch.nn layers and our own blocks."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, fx, nn

from iqa_armor.errors import NETWORK_FAILURES, SurgeryError
from iqa_armor.graph.failures import cause_of
from iqa_armor.graph.fold import fold_constants
from iqa_armor.graph.follow import MODES, follow
from iqa_armor.graph.functional import restore_functions
from iqa_armor.graph.interpret import FIXED_SIZE, record_sizes
from iqa_armor.graph.restore import bake_weights, keep_forced_dropout, restore_layers
from iqa_armor.graph.walk import copy_notes, mark_units


def trace(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a deep copy of a network in eval mode and give every node its size.

    Dropout that is off in eval mode, and functions that work with a module's own weights, become layers, so that
    fine-tuning and pruning have them; dropout that its author keeps on in eval mode stays on. What no image has a say
    in is computed once. The graph module has the network's parameter names and is in eval mode; `size_of` gives the
    sizes of its nodes for the example, a normalised input (N, 3, H, W).

    Raises SurgeryError if the network cannot be traced whole, keeps another layer than dropout in training mode, or
    fails on the example; names the line that broke.
    """
    with evaluating(network):
        followed = follow(network, example)  # the network itself: hooks that it has set hold on to it, not to a copy
        try:
            # Such as the weights that weight normalization leaves at a layer.
            held = [each for module in followed.modules() for each in vars(module).values() if isinstance(each, Tensor)]
            traced = copy.deepcopy(followed, {id(each): each.detach().clone() for each in held if not each.is_leaf})
        except NETWORK_FAILURES as error:
            raise SurgeryError(f"{type(network).__name__} cannot be copied: {cause_of(error)}") from error
    modes = followed.meta.pop(MODES)
    for name, module in traced.named_modules():
        module._forward_hooks.clear()  # what they did is in the graph
        module.training = modes.get(name, False)
    bake_weights(traced)
    keep_forced_dropout(traced)
    restore_layers(traced)
    fold_constants(traced.eval(), example)
    record_sizes(traced, example)
    restore_functions(traced)
    if not traced.graph.output_node().all_input_nodes:
        raise SurgeryError(f"what {type(network).__name__} gives does not depend on the image; return its scores")
    traced.eval().graph.lint()
    traced.recompile()
    if isinstance(network, fx.GraphModule):
        copy_notes(traced, network)
        traced.meta.update({key: value for key, value in network.meta.items() if key == FIXED_SIZE})
    else:
        mark_units(traced)
    return traced


def trace_shared(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return the graph of what a network computes in eval mode, made of the network's own layers, not of copies.

    Example and errors are as in `trace`; the network's mode is left as it is.
    """
    with evaluating(network):
        traced = follow(network, example)
        record_sizes(traced, example)
    return traced


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode and give every layer its own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
