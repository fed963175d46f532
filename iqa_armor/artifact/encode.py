"""From a traced network to JSON values and tensors."""

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from iqa_armor.artifact.checks import FormatError, shown
from iqa_armor.artifact.functions import FUNCTIONS, encode_value
from iqa_armor.artifact.header import NAME_OF_DTYPE
from iqa_armor.artifact.layers import LAYERS, SOURCE
from iqa_armor.graph.interpret import FIXED_SIZE, place_of

INPUT = "images"


def encode_network(network: fx.GraphModule) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return what has to be stored to rebuild a traced network of one input, without modules that are never called.

    Nodes, leaves, attributes and tensor table are JSON values; every stored tensor, by name, is contiguous, on the CPU
    and alone in its storage.
    """
    # Some nodes only assert something, in torchvision's networks.
    kept = [node for node in network.graph.nodes if node.target is not torch._assert or node.users]
    called = {str(node.target): network.get_submodule(str(node.target)) for node in kept if node.op == "call_module"}
    leaves = {path: _leaf(path, leaf) for path, leaf in called.items()}
    state = {f"{path}.{name}": value for path, leaf in called.items() for name, value in leaf.state_dict().items()}
    attributes = {}
    for node in kept:
        if node.op == "get_attr" and node.target not in state:
            path, tensor = str(node.target), operator.attrgetter(str(node.target))(network)
            if not isinstance(tensor, Tensor):
                raise FormatError(f"the graph reads {path!r}, a {type(tensor).__name__}; only tensors can be stored")
            state[path], attributes[path] = tensor, "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
    tensors = _storable(state)
    description: dict[str, object] = {
        "nodes": _nodes(kept),
        "leaves": leaves,
        "attributes": attributes,
        "tensors": {name: [NAME_OF_DTYPE[value.dtype], list(value.shape)] for name, value in tensors.items()},
    }
    if FIXED_SIZE in network.meta:
        description[FIXED_SIZE] = list(network.meta[FIXED_SIZE])
    return description, tensors


def _leaf(path: str, leaf: nn.Module) -> dict[str, object]:
    name = LAYERS.name_of(type(leaf))
    if name is None and getattr(leaf, "is_traced_whole", False):
        return {"class": SOURCE, "arguments": {}}
    if name is None:
        raise FormatError(
            f"layer {path!r} is a {type(leaf).__module__}.{type(leaf).__qualname__}, which cannot be stored; "
            "build the network from torch.nn layers without parametrizations",
            path,
        )
    if leaf._forward_hooks or leaf._forward_pre_hooks:
        raise FormatError(f"layer {path!r} has forward hooks, which cannot be stored; remove them first")
    if any(module._non_persistent_buffers_set for module in leaf.modules()):
        raise FormatError(f"layer {path!r} has buffers outside its state dict, which cannot be stored")
    try:
        return {"class": name, "arguments": LAYERS[name].describe(leaf)}
    except (AttributeError, KeyError) as error:
        raise FormatError(f"layer {path!r} ({name}) lacks the attribute {error}") from error


def _nodes(kept: list[fx.Node]) -> list[dict[str, object]]:
    inputs = [node for node in kept if node.op == "placeholder"]
    stored = [node for node in kept if node.op != "placeholder" or node is inputs[0]]
    numbers: dict[fx.Node, object] = {node: {"node": index} for index, node in enumerate(stored)}
    for extra in inputs[1:]:
        if extra.users and not extra.args:
            raise FormatError(f"the network needs a second input {extra.target!r}; only one, the images, can be stored")
        numbers[extra] = encode_value(extra.args[0], numbers.__getitem__) if extra.args else None
    return [_node(node, numbers) for node in stored]


def _node(node: fx.Node, numbers: Mapping[fx.Node, object]) -> dict[str, object]:
    try:
        called = INPUT if node.op == "placeholder" else node.target
        target = called if isinstance(called, str) else FUNCTIONS.name_of(called)
        if target is None:
            raise FormatError(
                f"it calls {node._pretty_print_target(called)}, "
                "which cannot be stored; use a torch.nn layer or a common torch function instead"
            )
        args = [] if node.op == "placeholder" else [encode_value(arg, numbers.__getitem__) for arg in node.args]
        # torch.nn.functional passes its defaults on to the tracer.
        given = {name: arg for name, arg in node.kwargs.items() if (name, arg) != ("out", None)}
        kwargs = {name: encode_value(arg, numbers.__getitem__) for name, arg in given.items()}
    except FormatError as error:
        raise FormatError(f"node {node.name!r}: {error}", place_of(node)) from error
    unit = {"unit": node.meta["unit"]} if isinstance(node.meta.get("unit"), str) else {}
    return {"op": node.op, "target": target, "args": args, "kwargs": kwargs, **unit}


def _storable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors, each alone in its storage."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in state.items():
        if value.is_meta or value.dtype not in NAME_OF_DTYPE or value.layout != torch.strided:
            raise FormatError(f"tensor {name!r} ({value.dtype}, {value.device}) cannot be stored")
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor
    check_finite(found)
    return found


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that every floating-point tensor is free of NaN and infinities."""
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise FormatError(f"weights are NaN or infinite in {', '.join(map(shown, broken[:10]))}{more}")
