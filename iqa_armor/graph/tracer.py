"""Follow a network symbolically while its values are computed beside, so that questions about sizes have answers."""

import inspect
import operator
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from iqa_armor.errors import NETWORK_FAILURES
from iqa_armor.graph.calls import allowed_path, hides_network
from iqa_armor.graph.interpret import NodeFailure, call_node, calling_line, failure_at
from iqa_armor.graph.plain import Known, proxies
from iqa_armor.graph.walk import ancestors

_STACKS = ("", "Encoder", "EncoderLayer", "Decoder", "DecoderLayer")
_MADE_OF_LAYERS = tuple(getattr(nn, f"Transformer{part}") for part in _STACKS)
_OWN = ("", "torch", "torchvision", "iqa_armor", "builtins", "operator", "_operator", "math")
# What a tensor tells without a look at its pixels or sizes; how it lies in memory changes no value.
FACTS = (
    *("is_floating_point", "is_complex", "is_signed", "element_size"),
    *("get_device", "type", "stride", "is_contiguous"),
)
# Methods that make a tensor like another, as functions.
MADE_LIKE = {f"new_{n}": getattr(torch, n) for n in ("zeros", "ones", "full", "tensor")} | {"new_empty": torch.zeros}
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # which torch's own functions take as well
COMPILED = "TorchScript without the Python source that it was compiled from; build it from that"
UNOWNED = "a weight that it works with is no part of the network; keep modules in nn.ModuleList, not in a plain list"
_ROOT = str(Path(__file__).with_name("follow.py"))  # what calls the network


class SizedTracer(fx.Tracer):
    """Tracer that notes each node's line of source and value, and stops at torch.nn layers and what is traced whole."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.asked: dict[fx.Node, Any] = {}  # values that Python took plainly
        # Path of the innermost module whose code could not be followed, "" being the network; None where all was.
        self.failed: str | None = None
        self._holders: Counter[fx.Node] = Counter()
        self._is_computing, self._thread = False, threading.get_ident()

    @property
    def _is_plain(self) -> bool:
        """Whether modules run as ever: within a leaf, and in other threads, whose modules fx patches as well."""
        return self._is_computing or threading.get_ident() != self._thread

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # torchvision itself takes a second to import, so its class is told by name.
        is_stochastic_depth = type(m).__module__ == "torchvision.ops.stochastic_depth"
        is_whole = bool(getattr(m, "is_traced_whole", False))
        is_leaf = is_whole or is_stochastic_depth or super().is_leaf_module(m, module_qualified_name)
        return is_leaf and not isinstance(m, _MADE_OF_LAYERS)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for a node, whose value is kept only as long as something that does is there."""
        proxy = Known(node, self)
        self._holders[node] += 1
        weakref.finalize(proxy, self._released, node).atexit = False
        return proxy

    def _released(self, node: fx.Node) -> None:
        self._holders[node] -= 1
        if not self._holders[node] and isinstance(self.values.get(node), Tensor):
            self.values[node] = None

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        if kind in ("call_module", "get_attr") and hides_network(target):
            rest = (allowed_path(target), *rest[1:])
        if kind == "call_method" or inspect.isbuiltin(target):
            kwargs = {_NUMPY_NAMES.get(key, key): value for key, value in kwargs.items()}
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        node.meta["line"] = calling_line(_ROOT)
        self.values[node] = self._computed(node)
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Proxy:
        """Return what stands for a call; what another package's function makes of sizes alone becomes a constant."""
        if torch.is_autocast_enabled(self.example.device.type):
            raise TraceError("it computes in half precision under torch.autocast, which a graph does not hold")
        if kind == "call_method" and target in ("item", "tolist", "numpy"):
            return cast(fx.Proxy, self.settled(args[0], operator.methodcaller(target)))
        if target is operator.mul and any(isinstance(each, list) for each in args):
            return cast(fx.Proxy, operator.mul(*(each if isinstance(each, list) else int(each) for each in args)))
        name = getattr(target, "__name__", target)
        if name in FACTS and len(args) == 1 and not kwargs and isinstance(args[0], Known):
            return cast(fx.Proxy, getattr(args[0].value(), name)())
        if kind == "call_method" and target in MADE_LIKE:
            return self._made_like(args[0], MADE_LIKE[target], args[1:], kwargs)
        is_foreign = kind == "call_function" and (getattr(target, "__module__", "") or "").partition(".")[0] not in _OWN
        if is_foreign and not any(isinstance(self.values[each.node], Tensor) for each in proxies(args, kwargs)):
            args, kwargs = self.plain((args, kwargs))
            value = target(*args, **kwargs)
            if isinstance(value, Tensor):
                return self.proxy(self.create_arg(value))
        return super().create_proxy(kind, target, args, kwargs, *rest, **more)

    def _made_like(self, given: Any, make: Any, args: Any, kwargs: Any) -> fx.Proxy:
        known: Any = given if isinstance(given, Known) else self.proxy(self.create_arg(given))
        if make is torch.tensor:
            return self.proxy(self.create_arg(make(self.plain(args[0]), dtype=known.value().dtype)))
        told = {"dtype": known.dtype, "device": known.device} | kwargs
        told = {key: value for key, value in told.items() if key not in ("requires_grad", "layout", "pin_memory")}
        return self.create_proxy("call_function", make, args, told)

    def plain(self, values: Any) -> Any:
        """Return values, however deep, with those of the graph settled."""
        return fx.node.map_aggregate(
            values, lambda each: self.settled(each, lambda known: known) if isinstance(each, fx.Proxy) else each
        )

    def create_arg(self, a: Any) -> Any:
        """Return an argument as the graph keeps it; sizes that were settled are plain numbers already."""
        try:
            return super().create_arg(tuple(a) if isinstance(a, torch.Size) else a)
        except NameError as error:
            raise TraceError(UNOWNED) from error

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError as error:
            raise TraceError(f"a {type(mod).__name__} is no submodule; keep layers in nn.ModuleList") from error

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Run a module, as one node if it is a leaf; within a leaf, or made in a `forward`, modules run plainly."""
        if self._is_plain or not (m in (self.submodule_paths or {}) or m.state_dict()):
            return forward(*args, **kwargs)
        try:
            if isinstance(m, torch.jit.ScriptModule):
                raise TraceError(f"{self.path_of_module(m)!r} is {COMPILED}")
            result = super().call_module(m, forward, args, kwargs)
        except (*NETWORK_FAILURES, NodeFailure):
            self.failed = self.path_of_module(m) if self.failed is None else self.failed
            raise
        if self.is_leaf_module(m, ""):  # those of other modules run with them
            for hook in m._forward_hooks.values():
                changed = hook(m, args, result)
                result = result if changed is None else changed
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Return a module's attribute, a parameter as a node of the graph; within a leaf plainly."""
        return attr_val if self._is_plain else super().getattr(attr, attr_val, parameter_proxy_cache)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Return the parts of a value one by one; their number is settled."""
        value, parts = self.values[obj.node], cast(Any, obj)
        count = len(value) if isinstance(value, tuple | list) else self.settled(obj, len)
        return iter([parts[place] for place in range(count)])

    def adopt(self, graph: fx.Graph) -> None:
        """Go on with a copy of the graph, which has the same nodes in the same order."""
        mates = dict(zip(self.graph.nodes, graph.nodes, strict=True))
        every = (self.values, self.asked)
        self.values, self.asked = ({mates[node]: each[node] for node in each if node in mates} for each in every)
        self.graph = graph

    def settled(self, obj: fx.Proxy, read: Any, *digits: Any) -> Any:
        """Return a plain value of what stands for one, noted as asked for; a TraceError if it depends on the pixels."""
        value = self.values[obj.node]
        if isinstance(value, Tensor):
            if not any(each.op == "placeholder" for each in ancestors(obj.node)):
                return read(value, *digits)
            if read is not len:
                raise TraceError("a number is asked of a tensor, so what happens depends on the pixels, not on sizes")
            obj = cast(Any, obj).shape[0]
            value, read = self.values[obj.node], int
        self.asked[obj.node] = value
        return read(value, *digits)

    def _computed(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.example if not self.values else (node.args[0] if node.args else None)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.op == "output":
            return args[0]
        before, self._is_computing = self._is_computing, True
        try:
            with torch.no_grad():
                return self._called(node, args, kwargs)
        except NETWORK_FAILURES as error:
            raise failure_at(node, self.root, error) from error
        finally:
            self._is_computing = before

    def _called(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        if node.op == "call_module":
            module = self.root.get_submodule(target)
            for hook in module._forward_pre_hooks.values():  # old weight and spectral normalization make weights there
                hook(module, args)
            return module.forward(*args, **kwargs)
        return call_node(self.root, node, args, kwargs)
