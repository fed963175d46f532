"""Follow every channel of a traced network from the layer that makes it to all that read it."""

import operator
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, fx, nn

from iqa_armor.errors import NETWORK_FAILURES
from iqa_armor.graph.calls import layer_of, plain_name, tensors_in
from iqa_armor.graph.interpret import call_node, interpret
from iqa_armor.pruning.channels.labels import Labels, Units, like, zeros

# What stands where a channel is zero: a number; "computed" where other values say it; None where nothing is known.
Rest = float | Literal["computed"] | None


@dataclass(frozen=True)
class Call:
    """A node that calls something, and what the rules want to know of it."""

    node: fx.Node
    value: Any  # what it gives on the example
    layer: nn.Module | None  # that it calls; None for a function or method
    name: str  # plain, of the function or method, or of the layer's class

    @property
    def sources(self) -> list[fx.Node]:
        return self.node.all_input_nodes

    def given(self, name: str, place: int, default: Any = None) -> Any:
        """Return an argument of a function call as it stands in the graph, or a layer's attribute."""
        if self.layer is not None:
            return getattr(self.layer, name, default)
        return self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)


class Labelling:
    """Labels of all values of a traced network on one image (1, 3, H, W)."""

    def __init__(self, traced: fx.GraphModule, example: Tensor) -> None:
        self.traced, self.example = traced, example
        self.units = Units()  # that the labels name
        self.labels: dict[fx.Node, Labels] = {}
        self.numbers: dict[fx.Node, float] = {}  # values that are numbers
        self.sites: dict[tuple[str, int], Tensor] = {}  # per (name of a stored tensor, axis) the labels along that axis
        self.whole: dict[str, Tensor] = {}  # labels of stored tensors that take part in arithmetic, of their shape
        self.made_axis: dict[str, int] = {}  # per name of a weight that makes channels, the axis along which it does
        self.heads: dict[str, None] = {}  # names of weights that make vectors, not maps or tokens
        self.of_images: set[fx.Node] = set()  # what depends on the images, beside what weights tell by themselves
        self.rest: dict[fx.Node, Rest] = {}  # what stands where a channel is zero; 0 where nothing is said
        # Per node that sums over channels, the (argument, its labels) of which missing channels would add `rest`.
        self.reads: dict[fx.Node, list[tuple[fx.Node, Tensor]]] = {}
        self.rescaled: dict[fx.Node, tuple[int, ...]] = {}  # per sum or mean over channels, the axes it goes over
        self.across: dict[fx.Node, Tensor] = {}  # per node that normalises over channels, labels of what it normalises
        self.reasons: dict[fx.Node, str] = {}  # per node that lets channels stay, why
        self.values: dict[fx.Node, Any] = {}
        self.names = {id(t): n for n, t in reversed([*traced.named_buffers(), *traced.named_parameters()])}

    def run(self) -> Self:
        with torch.no_grad():
            for node, value in interpret(self.traced, self.example, call=self.call, values=self.values):
                if isinstance(value, int | float):
                    self.numbers[node] = value
                self.labels[node] = self._label(node)
        return self

    def call(self, traced: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
        return call_node(traced, node, args, kwargs)

    def real(self, args: Any) -> Any:
        return fx.node.map_arg(args, self.values.__getitem__)

    def stored(self, name: str) -> Any:
        return operator.attrgetter(name)(self.traced)

    def of(self, node: fx.Node) -> Labels:
        """Return the labels of a node's value; those of a stored tensor are new units, one per number in it."""
        if node.op != "get_attr" or not isinstance(tensor := self.stored(str(node.target)), Tensor):
            return self.labels[node]
        name = self.names.get(id(tensor))
        if name is None or tensor.numel() == 1 or not tensor.is_floating_point():
            return zeros(tensor)
        if name not in self.whole:
            self.whole[name] = self.labels_of_stored(name, tensor)
        return self.whole[name]

    def labels_of_stored(self, name: str, tensor: Tensor) -> Tensor:  # noqa: ARG002
        return self.units.fresh(tensor.numel(), is_made=False).view(tensor.shape)

    def labels_of_made(self, weight: str, count: int) -> Tensor:  # noqa: ARG002
        return self.units.fresh(count, is_made=True)

    def stay(self, call: Call, why: str) -> Labels:
        """Let all channels stay that a call reads, and return labels that say that its value has none that could go."""
        for source in call.sources:
            if source.op == "get_attr" and isinstance(tensor := self.stored(str(source.target)), Tensor):
                self.whole.setdefault(self.names.get(id(tensor), ""), zeros(tensor))
            self.fix(self.of(source))
        self.reasons[call.node] = why
        return zeros(call.value)

    def fix(self, labels: Labels) -> None:
        for part in tensors_in(labels):
            self.units.fix(part)

    def read(self, call: Call, source: fx.Node, labels: Tensor) -> None:
        """Note that a call sums over the channels of an argument."""
        self.reads.setdefault(call.node, []).append((source, labels))

    def made(self, weight: str, count: int, axis: int) -> Tensor:
        """Return the labels that a weight makes along an axis: the same at every call."""
        known = self.sites.get((weight, axis))
        self.made_axis.setdefault(weight, axis)
        return self.labels_of_made(weight, count) if known is None else known[:count]

    def site(self, name: str | None, axis: int, labels: Tensor) -> None:
        """Note the labels along an axis of a stored tensor, and link them to those it has."""
        if name is not None and self.sites.setdefault((name, axis), labels) is not labels:
            self.units.link(self.sites[name, axis], labels)

    def operand(self, call: Call, name: str, place: int) -> str | None:
        """Return the name of a stored tensor that a layer or function works with; None where it has none."""
        given = call.given(name, place)
        if isinstance(given, fx.Node):
            if given.op != "get_attr":
                self.fix(self.of(given))
                return None
            given = self.stored(str(given.target))
        return None if given is None else self.names.get(id(given))

    def argument(self, call: Call, name: str, place: int, default: Any = None) -> Any:
        return self.real(call.given(name, place, default))

    def _label(self, node: fx.Node) -> Labels:
        from iqa_armor.pruning.channels.rules import RULES, kind_of
        from iqa_armor.pruning.channels.zero import rest_of

        value, layer = self.values[node], layer_of(self.traced, node)
        if node.op == "placeholder" or self.of_images.intersection(node.all_input_nodes):
            self.of_images.add(node)
        call = Call(node, value, layer, type(layer).__name__ if layer is not None else plain_name(node))
        if node.op == "output":
            self.stay(call, "the score reads it")
        elif node.op == "call_function" and node.target is operator.setitem:
            return self.stay(call, "it is written in place")
        if node.op in ("get_attr", "output") or not tensors_in(value):
            return None
        if node.op == "placeholder":
            return zeros(value)
        try:
            labels = like(RULES[kind_of(node, layer)](self, call), self.units.settled)
            self.rest[node] = rest_of(self, call, kind_of(node, layer), labels)
            return labels
        except NETWORK_FAILURES:  # a way of calling that no rule knows
            return RULES["unknown"](self, call)
