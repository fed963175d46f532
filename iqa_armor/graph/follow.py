"""Trace a network for any number of images, and find out whether the graph holds for images of any size."""

import copy
import inspect
import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import SurgeryError, calling
from iqa_armor.graph.calls import graph_module
from iqa_armor.graph.interpret import ADVICE, FIXED_SIZE, NodeFailure, cause_of, failed_at, for_each, line_of, place_of
from iqa_armor.graph.plain import sizes_from
from iqa_armor.graph.tracer import COMPILED, SizedTracer
from iqa_armor.graph.walk import ancestors

MODES = "modes"  # likewise: by layer, whether it was in training mode when it ran
_ALONE = threading.RLock()  # fx patches nn.Module itself while it traces
GRAY = "it takes gray images, so wrap it in a network that makes them of colour images"
_GROWN = (32, 64)  # what another size has more


def follow(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return the graph of what a network computes in its present mode, made of the network's own layers.

    The example is a normalised input (N, 3, H, W). Sizes that the network's code asks for (an `if`, a loop, padding)
    are the example's; `meta["fixed_size"]` then says so, unless the answers do not depend on height and width. Options
    of `forward` take their defaults. Raises SurgeryError, with the line, if anything depends on the pixels or the
    number of images.
    """
    with _from_source(network) as source:
        if isinstance(source, torch.jit.ScriptModule):
            raise SurgeryError(f"the network is {COMPILED}")
        pair = example[:1].repeat(2, 1, 1, 1)
        tracer, traced = _traced(source, pair)
        if tracer.asked:
            if not _is_free_of_size(source, tracer, pair):  # asked first, as the next step adds nodes
                traced.meta[FIXED_SIZE] = tuple(example.shape[-2:])
            _free_of_number(traced, _traced(source, example[:1].repeat(3, 1, 1, 1))[1], type(source).__name__)
            traced.graph.lint()
            traced.recompile()
        return traced


@contextmanager
def _from_source(network: nn.Module) -> Iterator[nn.Module]:
    """Put what compiled modules were compiled from in their places for a while; yield the network, or its source."""
    if isinstance(network, torch.jit.ScriptModule):
        yield _source_of(network) or network
        return
    compiled = {path: part for path, part in network.named_modules() if isinstance(part, torch.jit.ScriptModule)}
    outermost = {path: part for path, part in compiled.items() if path.rpartition(".")[0] not in compiled}
    try:
        for path, part in outermost.items():
            network.set_submodule(path, _source_of(part) or part)
        yield network
    finally:
        for path, part in outermost.items():
            network.set_submodule(path, part)


def _source_of(module: torch.jit.ScriptModule) -> nn.Module | None:
    """Return what a module was compiled from, with its own weights and modes; None of one loaded or recorded."""
    source = getattr(getattr(vars(module).get("forward"), "__wrapped__", None), "__self__", None)
    if not isinstance(source, nn.Module):
        return None
    own, others = (
        dict([*each.named_parameters(remove_duplicate=False), *each.named_buffers(remove_duplicate=False)])
        for each in (module, source)
    )
    known: dict[int, Any] = {id(tensor): own.get(name, tensor) for name, tensor in others.items()}
    parts = [part for part in source.modules() if isinstance(part, torch.jit.ScriptModule)]
    copied = copy.deepcopy(source, known | {id(part): _source_of(part) or part for part in parts})
    for name, part in module.named_modules():
        copied.get_submodule(name).training = part.training
    return copied


def _traced(network: nn.Module, images: Tensor) -> tuple[SizedTracer, fx.GraphModule]:
    tracer, kind = SizedTracer(images), type(network).__name__

    def says(failure: BaseException) -> str:  # such as of a file that it opens
        failure.place = tracer.failed or ""  # type: ignore[attr-defined]  # whose code could not be followed
        return f"cannot be traced: {cause_of(failure)} ({failed_at(failure)})"

    with calling(kind, SurgeryError, says=says):
        try:
            with _one_input(network), _unchanged(network) as kept:
                with _ALONE, sizes_from(tracer), torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)  # constants that are drawn are the same for any number of images
                    tracer.graph = tracer.trace(network)
                for node in reversed(tracer.graph.find_nodes(op="call_function", target=torch._assert)):
                    tracer.graph.erase_node(node)
                for module, known in kept:  # tensors that the graph reads, which `forward` wrote over
                    written = [name for name, value in vars(module).items() if isinstance(value, fx.Proxy)]
                    vars(module).update({name: known[name] for name in written if name in known})
                traced = graph_module(network, tracer.graph, kind)
                traced.meta[MODES] = {name: module.training for name, module in traced.named_modules() if name}
                # A graph module has a copy of the graph.
                tracer.adopt(traced.graph)
        except NodeFailure as failure:
            failure.place = tracer.failed or ""  # type: ignore[attr-defined]
            is_gray = "to have 1 channels, but got 3" in str(failure)
            shape, advice = (1, *images.shape[1:]), GRAY if is_gray else ADVICE
            raise SurgeryError(f"on an input of {shape} {failure}; {advice}") from failure
    return tracer, traced


@contextmanager
def _one_input(network: nn.Module) -> Iterator[None]:
    """Let a network take images only: further arguments of its `forward`, or its class's, have their defaults."""
    kind, called = cast(Any, type(network)), network.forward
    if "forward" not in vars(network) and len(inspect.signature(called).parameters) == 1:
        yield
        return

    def forward(_: nn.Module, images: Tensor) -> Any:
        return called(images)

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    try:
        yield
    finally:
        network.__class__ = kind


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[list[tuple[nn.Module, dict[str, Any]]]]:
    """Give modules back the attributes they had, which are yielded: what they keep for later would be a trace's."""
    kept = [(module, dict(vars(module))) for module in network.modules()]
    holders = [value for _, known in kept for value in known.values() if type(value) in (dict, list)]
    contents = [(holder, holder.copy()) for holder in holders]
    try:
        yield kept
    finally:
        for holder, content in (*((vars(module), known) for module, known in kept), *contents):
            _give_back(holder, content)


def _give_back(holder: Any, content: Any) -> None:
    """Give a list or dictionary its content back, and leave one alone that has it: other threads may be reading it."""
    if isinstance(holder, list):
        if list(map(id, holder)) != list(map(id, content)):
            holder[:] = content
        return
    for key in holder.keys() - content.keys():
        del holder[key]
    holder.update({key: value for key, value in content.items() if key not in holder or holder[key] is not value})
    if list(holder) != list(content):  # something was taken out: the order of layers and weights counts
        holder.clear()
        holder.update(content)


def _free_of_number(two: fx.GraphModule, three: fx.GraphModule, kind: str) -> None:
    """Replace numbers that follow that of the images, 2 in one trace and 3 in the other, by what they follow."""
    for node, other in zip_longest(list(two.graph.nodes), list(three.graph.nodes)):
        if node is None or other is None or (node.op, node.target) != (other.op, other.target):
            raise _depends_on_number(other or node, kind)  # a loop over more images is longer
        if node.op == "get_attr":
            one, same = map(operator.attrgetter(str(node.target)), (two, three))
            if one is not same and isinstance(one, Tensor) and not torch.equal(one, same):
                raise _depends_on_number(node, kind)
        node.args = _merged(node.args, other.args, node, kind)
        node.kwargs = _merged(node.kwargs, other.kwargs, node, kind)


def _merged(one: Any, other: Any, node: fx.Node, kind: str) -> Any:
    if isinstance(one, fx.Node):
        return one
    if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        return type(one)(_merged(a, b, node, kind) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return {key: _merged(value, other[key], node, kind) for key, value in one.items()}
    if isinstance(one, slice):
        return slice(*(_merged(getattr(one, n), getattr(other, n), node, kind) for n in ("start", "stop", "step")))
    if isinstance(one, Tensor) or one == other or one is other:
        return one
    images = cast(fx.Node, node.graph.find_nodes(op="placeholder")[0])
    with node.graph.inserting_before(node):
        if isinstance(one, int) and isinstance(other, int) and one * 3 == other * 2:
            number = node.graph.call_method("size", (images, 0))
            return number if one == 2 else node.graph.call_function(operator.mul, (number, one // 2))
        if isinstance(one, list) and isinstance(other, list) and (len(one), len(other)) == (2, 3) and one[0] is one[1]:
            return node.graph.call_function(for_each, (one[0], images))
    raise _depends_on_number(node, kind)


def _depends_on_number(node: fx.Node, kind: str) -> SurgeryError:
    says = f"{kind} cannot be traced: what it does depends on how many images come together{line_of(node)}"
    error = SurgeryError(says)
    error.place = place_of(node)  # type: ignore[attr-defined]
    return error


def _is_free_of_size(network: nn.Module, tracer: SizedTracer, images: Tensor) -> bool:
    """Return whether all numbers that Python asked for, and what they follow from, are the same for larger images."""
    grown = images.new_zeros(*images.shape[:2], *(a + b for a, b in zip(images.shape[2:], _GROWN, strict=True)))
    try:
        other, _ = _traced(network, grown)
    except SurgeryError:
        return False
    mates = dict(zip(tracer.graph.nodes, other.graph.nodes, strict=False))
    if len(tracer.asked) != len(other.asked):
        return False
    plain = {each for node in tracer.asked for each in ancestors(node) if isinstance(tracer.values[each], int | float)}
    return all(node in mates and tracer.values[node] == other.values[mates[node]] for node in plain)
