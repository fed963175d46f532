"""From checked JSON values to a traced network on the meta device."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import fx, nn

from iqa_armor.artifact import checks
from iqa_armor.artifact.checks import FormatError, check_path, expect_fields, shown, within
from iqa_armor.artifact.encode import INPUT
from iqa_armor.artifact.functions import FUNCTIONS, METHODS, Signature, decode_value
from iqa_armor.artifact.header import DTYPES, TensorInfo, tensor_info
from iqa_armor.artifact.layers import LAYERS, SOURCE, StoredLayer
from iqa_armor.graph.interpret import FIXED_SIZE

NODE_FIELDS = ("op", "target", "args", "kwargs")


@dataclass
class _Build:
    """A network while it is being rebuilt."""

    root: nn.Module
    leaves: dict[str, StoredLayer]
    tensors: Mapping[str, TensorInfo]
    graph: fx.Graph = field(default_factory=fx.Graph)
    nodes: list[fx.Node] = field(default_factory=list)


def decode_network(
    description: Mapping[str, object], header: Mapping[str, TensorInfo], source: nn.Module | None = None
) -> fx.GraphModule:
    """Return the described network on the meta device; its state dict has just the names and sizes of `header`.

    The description is a stranger's parsed JSON with nodes, leaves, attributes and tensors, the header the tensors that
    are really in the file; `source` has the parts which are user code, if there are any, on a device of their own.
    """
    _check_table(description["tensors"], header)
    build = _skeleton(description, header, source)
    _check_state(build.root, header)
    nodes = description["nodes"] if isinstance(description["nodes"], list) else []
    if not 2 <= len(nodes) <= checks.MAX_NODES:
        raise FormatError(f"its graph must have 2 to {checks.MAX_NODES} nodes, got {len(nodes)}")
    for index, stored in enumerate(nodes):
        with within(f"node {index}:"):
            build.nodes.append(_add_node(build, stored, is_last=index == len(nodes) - 1))
    if unused := build.leaves.keys() - {node.target for node in build.nodes if node.op == "call_module"}:
        raise FormatError(f"its graph never calls the declared layer {shown(min(unused))}")
    network = fx.GraphModule(build.root, build.graph, "HardenedNetwork")
    try:
        network.graph.lint()
    except RuntimeError as error:
        raise FormatError(f"its graph is inconsistent: {error}") from error
    _check_state(network, header)
    if FIXED_SIZE in description:
        given, check = {FIXED_SIZE: description[FIXED_SIZE]}, checks.sequence(checks.integer(1, 2**14), 2)
        network.meta.update(checks.checked_fields(given, {FIXED_SIZE: check}, "its graph"))
    return network


def _check_table(table: object, header: Mapping[str, TensorInfo]) -> None:
    if not isinstance(table, dict):
        raise FormatError("its tensor table must be a JSON object")
    if differing := sorted(table.keys() ^ header.keys()):
        raise FormatError(f"its tensor table and the file disagree on {', '.join(map(shown, differing[:10]))}")
    for name, entry in table.items():
        if not isinstance(entry, list) or len(entry) != 2:
            raise FormatError(f"the table entry of tensor {shown(name)} must be [dtype, size]")
        declared = tensor_info(name, *entry)
        if declared != header[name]:
            raise FormatError(f"tensor {shown(name)} is declared as {declared} but stored as {header[name]}")


def _skeleton(description: Mapping[str, object], header: Mapping[str, TensorInfo], source: nn.Module | None) -> _Build:
    """Return the module tree of the described layers and attributes, on the meta device."""
    stored_leaves, stored_attributes = description["leaves"], description["attributes"]
    if not isinstance(stored_leaves, dict) or not isinstance(stored_attributes, dict):
        raise FormatError("leaves and attributes must be JSON objects")
    if len(stored_leaves) > checks.MAX_NODES:
        raise FormatError(f"it declares {len(stored_leaves)} layers; at most {checks.MAX_NODES} are allowed")
    paths = {check_path(path) for path in (*stored_leaves, *stored_attributes)}
    if len(paths) < len(stored_leaves) + len(stored_attributes):
        raise FormatError("a path is declared both as layer and as tensor")
    around = ((path, outer) for path in paths for outer in accumulate(path.split(".")[:-1], "{}.{}".format))
    if inside := [(path, outer) for path, outer in around if outer in paths]:
        path, outer = map(shown, min(inside))
        raise FormatError(f"{path} lies inside {outer}, which is already complete")
    root, leaves = nn.Module(), {}
    for path, stored in stored_leaves.items():
        is_source = isinstance(stored, dict) and stored.get("class") == SOURCE
        with within(f"layer {shown(path)}:"):
            leaves[path], module = _taken_from(source, path) if is_source else _leaf(path, stored, header)
        container, name = _container(root, path)
        container.add_module(name, module)
    for path, kind in stored_attributes.items():
        _add_attribute(root, path, kind, header=header)
    return _Build(root, leaves, header)


def _leaf(path: str, stored: object, header: Mapping[str, TensorInfo]) -> tuple[StoredLayer, nn.Module]:
    fields = expect_fields(stored, {"class", "arguments"}, "its description")
    name = fields["class"]
    if not isinstance(name, str) or name not in LAYERS:
        raise FormatError(f"class {shown(name)} is not allowed")
    leaf = LAYERS[name]
    arguments = leaf.arguments(fields["arguments"])
    for tensor, size_for in leaf.tensors.items():
        info, shape = header.get(f"{path}.{tensor}"), size_for(arguments)
        if info is None or info.shape != shape:
            found = "is missing" if info is None else f"has size {list(info.shape)}"
            raise FormatError(f"its tensor {tensor!r} must have size {list(shape)} but {found}")
    return leaf, leaf.build(arguments)


def _taken_from(source: nn.Module | None, path: str) -> tuple[StoredLayer, nn.Module]:
    """Return a copy of a module of the user's network, which a graph may give any part of what its forward takes."""
    if source is None:
        raise FormatError("it is user code that is not in the file; name its source with --arch")
    try:
        found = source.get_submodule(path)
    except AttributeError as error:
        raise FormatError(f"the network of --arch has no module {shown(path)}") from error
    module = copy.deepcopy(found)
    module.is_traced_whole = True  # type: ignore[assignment]
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return StoredLayer(nn.Module, {}, Signature(" ".join(f"{name}?" for name in names))), module


def _add_attribute(root: nn.Module, path: str, kind: object, *, header: Mapping[str, TensorInfo]) -> None:
    if path not in header:
        raise FormatError(f"the declared tensor {shown(path)} is not in the file")
    info = header[path]
    value = torch.empty(info.shape, dtype=DTYPES[info.dtype], device="meta")
    container, name = _container(root, path)
    if kind == "parameter":
        container.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
    elif kind == "buffer":
        container.register_buffer(name, value)
    else:
        raise FormatError(f"tensor {shown(path)} must be a parameter or a buffer, not {shown(kind)}")


def _container(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds the last name of a checked path, making those on the way."""
    *parents, name = path.split(".")
    module = root
    for parent in parents:
        if parent not in module._modules:
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    return module, name


def _check_state(network: nn.Module, header: Mapping[str, TensorInfo]) -> None:
    """Check that a network has exactly the tensors of the file, in kind and size."""
    state = network.state_dict()
    if missing := sorted(state.keys() - header.keys()):
        raise FormatError(f"the file lacks tensors of its layers: {', '.join(map(shown, missing[:10]))}")
    if extra := sorted(header.keys() - state.keys()):
        raise FormatError(f"the file has tensors that no layer owns: {', '.join(map(shown, extra[:10]))}")
    for name, value in state.items():
        info = header[name]
        dtype = DTYPES[info.dtype]
        if tuple(value.shape) != info.shape:
            raise FormatError(f"tensor {name!r} has size {list(info.shape)}, its layer needs {list(value.shape)}")
        if dtype != value.dtype and not (dtype.is_floating_point and value.is_floating_point()):
            raise FormatError(f"tensor {name!r} has type {info.dtype}, its layer needs {value.dtype}")


def _add_node(build: _Build, stored: object, *, is_last: bool) -> fx.Node:
    unit = stored.get("unit") if isinstance(stored, dict) else None
    fields = expect_fields(stored, {*NODE_FIELDS, *([] if unit is None else ["unit"])}, "its description")
    op, target, args, kwargs = (fields[name] for name in NODE_FIELDS)
    if not isinstance(target, str) or not isinstance(args, list) or not isinstance(kwargs, dict):
        raise FormatError("target must be text, args an array and kwargs an object")
    if len(args) > checks.MAX_LENGTH:
        raise FormatError(f"it has {len(args)} arguments; at most {checks.MAX_LENGTH} are allowed")
    if (op == "placeholder") != (not build.nodes) or (op == "output") != is_last:
        raise FormatError("a graph has one placeholder, its first node, and one output, its last")
    if op in ("placeholder", "output"):
        node = _add_border(build, op, target, args=args, kwargs=kwargs)
    elif op == "get_attr":
        if check_path(target) not in build.tensors or args or kwargs:
            raise FormatError(f"it reads {shown(target)}, which is no declared tensor")
        node = build.graph.create_node("get_attr", target)
    else:
        node = _add_call(build, op, target, args=args, kwargs=kwargs)
    if unit is not None:
        node.meta["unit"] = check_path(unit)
    return node


def _add_border(build: _Build, op: str, target: str, *, args: list[object], kwargs: dict[str, object]) -> fx.Node:
    if target != (INPUT if op == "placeholder" else "output") or kwargs or len(args) != (op == "output"):
        raise FormatError(f"{op} {shown(target)} does not have the form of an {op}")
    if op == "placeholder":
        return build.graph.placeholder(INPUT)
    value = decode_value(args[0], build.nodes, Signature())
    if not isinstance(value, fx.Node):
        raise FormatError(f"the output must be the value of one node, got {shown(args[0])}")
    return build.graph.create_node("output", "output", (value,))


def _add_call(build: _Build, op: object, target: str, *, args: list[object], kwargs: dict[str, object]) -> fx.Node:
    callee: Any = target
    if op == "call_module":
        if check_path(target) not in build.leaves:
            raise FormatError(f"it calls {shown(target)}, which is no declared layer")
        signature = build.leaves[target].signature
    elif op == "call_method" and target in METHODS:
        signature = METHODS[target]
    elif op == "call_function" and target in FUNCTIONS:
        signature, callee = FUNCTIONS[target], FUNCTIONS[target].target
    elif op in ("call_function", "call_method"):
        raise FormatError(f"{op} {shown(target)} is not allowed")
    else:
        raise FormatError(f"{shown(op)} is no kind of node")
    with within(f"{op} {shown(target)}:"):
        values = tuple(decode_value(arg, build.nodes, signature) for arg in args)
        named = {name: decode_value(arg, build.nodes, signature) for name, arg in kwargs.items()}
        if op == "call_method" and not (values and isinstance(values[0], fx.Node)):
            raise FormatError("a method needs the node whose value it belongs to")
        signature.check(values[1:] if op == "call_method" else values, named)
    return build.graph.create_node(str(op), callee, values, named)  # type: ignore[arg-type]
