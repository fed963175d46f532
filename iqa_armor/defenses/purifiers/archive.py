"""Read torch.export archives without running what strangers put into them."""

import io
import json
import keyword
import re
import tomllib
import zipfile
from importlib import resources
from typing import Any

import torch

from iqa_armor.errors import ModelLoadError, reading
from iqa_armor.machine import memory_limit

# What a file made by torch.export.save holds, below its first folder.
_MEMBER = re.compile(
    r"(data/(weights|constants)/(weight|tensor)_\d+|data/(weights|constants)/\w+_config\.json|models/\w+\.json"
    r"|data/sample_inputs/\w+\.pt|extra/[\w.]+|archive_format|archive_version|byteorder|(\.data/)?version"
    r"|\.data/serialization_id)"
)
_TABLE = tomllib.loads(resources.files("iqa_armor.defenses.purifiers").joinpath("archive.toml").read_text("utf-8"))
_OPERATORS = "|".join(_TABLE["operators"].split())
_TARGET = re.compile(
    rf"torch\.ops\.aten\.(?P<name>{_OPERATORS})\.(?P<overload>\w+)"
    r"|torch\.sym_(int|float|max|min|not|sum)|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_)"
)
_MOST, _OPEN = 2**31, 2**63 - 1  # of a number among arguments; the open end of a slice
_LONGEST = 4096  # of a list of arguments
_PLAIN = re.compile(r"[\w.+:\-]*")
_KEY = re.compile(r"[\w.]*")
_OPTION = re.compile(r"[a-z0-9_]*")  # a string argument, such as a rounding mode
# sympy evaluates expressions of sizes as Python: every name in them is looked up here.
_SYMBOL = re.compile(r"Symbol\('[a-z]\w*'")
_EXPRESSION = re.compile(r"[\w ,()=+\-*/%<>.]*")
_WORD = re.compile(r"[A-Za-z_]\w*|\.\s*[A-Za-z_]")
_SIZE_NAME = re.compile(
    r"[suz]\d+|Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv"
    r"|ModularIndexing|Piecewise|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|StrictLessThan|StrictGreaterThan|LessThan|GreaterThan"
    r"|Equality|Unequality|Abs|true|false|True|False|positive|negative|nonnegative|integer|evaluate|precision"
)
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_UNSUPPORTED = frozenset(("as_operator", "as_graph", "as_graphs", "as_custom_obj", "custom_obj", "as_complex"))
_DROPPED: dict[str, Any] = {"metadata": {}, "guards_code": []}  # sources of the author's lines; Python to evaluate


class _Unsafe(ValueError):
    """What an archive holds beside a graph of tensor operations."""


def checked_archive(path: str, content: bytes) -> io.BytesIO:
    """Return an archive for `torch.export.load`, made anew of the checked parts of a file's bytes.

    That function unpickles what the archive asks for, resolves names to any attribute of torch, evaluates strings and
    compiles others to Python source. So only what `torch.export.save` writes for a network of aten operations passes;
    comments on the author's source, and guards written in Python, are dropped. All else is a ModelLoadError.
    """
    with reading(path, ModelLoadError, says="is no torch.export archive, or is damaged", advice="export it again"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return _rebuilt(archive)
        except _Unsafe as error:
            advice = "save the network with torch.export.save or as ONNX"
            raise ModelLoadError(f"{path} was not opened, because {error}; {advice}") from error


def _rebuilt(archive: zipfile.ZipFile) -> io.BytesIO:
    names = [name.partition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise _Unsafe("it is TorchScript, which runs code of its own")
    if "archive_format" not in names or len(set(names)) != len(names):
        raise _Unsafe("it is not written by torch.export.save of PyTorch 2.8 or later")
    expanded = sum(member.file_size for member in archive.infolist())
    if expanded > memory_limit() // 4:
        raise _Unsafe(f"its parts have {expanded} bytes, more than --max-memory leaves for them")
    rebuilt = io.BytesIO()
    with zipfile.ZipFile(rebuilt, "w") as copy:
        for full, name in zip(archive.namelist(), names, strict=True):
            if not _MEMBER.fullmatch(name):
                raise _Unsafe(f"it holds {name[:80]!r}, which is no part of an exported network")
            if not name.startswith("extra/"):
                copy.writestr(f"checked/{name}", _checked_member(name, archive.read(full)))
    rebuilt.seek(0)
    return rebuilt


def _checked_member(name: str, content: bytes) -> bytes:
    if name.startswith("models/"):
        return json.dumps(_checked(json.loads(content), "")).encode()
    if name.endswith(".json"):
        config = json.loads(content)
        for payload in config["config"].values():
            if payload.get("use_pickle") is not False or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
                raise _Unsafe("it holds pickled objects")
        return json.dumps(config).encode()
    if name.endswith(".pt"):
        try:
            with reading("its sample", ModelLoadError):
                torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except ModelLoadError as error:
            raise _Unsafe("its sample inputs are more than tensors") from error
    return content


def _checked(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        for name in value:
            if name in _UNSUPPORTED or not (_KEY.fullmatch(name) or (key == "range_constraints" and _is_size(name))):
                raise _Unsafe(f"its graph has an entry {name[:80]!r}")
        return {name: _DROPPED[name] if name in _DROPPED else _checked(item, name) for name, item in value.items()}
    if isinstance(value, list):
        if key.startswith("as_") and len(value) > _LONGEST:
            raise _Unsafe(f"its graph has a list of {len(value)} arguments")
        return [_checked(item, key) for item in value]
    if key in ("as_int", "as_ints") and not (type(value) in (int, bool) and (abs(value) <= _MOST or value == _OPEN)):
        raise _Unsafe(f"its graph has the number {str(value)[:40]} among its arguments")
    if isinstance(value, str) and not _is_harmless(value, key):
        raise _Unsafe(f"its graph has {key} {value[:80]!r}, which is no part of a network of tensor operations")
    return value


def _is_harmless(text: str, key: str) -> bool:
    if key == "target":
        return _is_operator(text)
    if key == "expr_str":
        return _is_size(text)
    if key in ("in_spec", "out_spec"):
        return _is_tree(json.loads(text))
    if key in ("name", "forward_arg_names"):
        return not text or (text.isidentifier() and not keyword.iskeyword(text))
    return (_OPTION if key == "as_string" else _PLAIN).fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    """Return whether a target is in the list; what writes into tensors that it is given for that is not."""
    found = _TARGET.fullmatch(text)
    if found is None or found["name"] is None:
        return found is not None
    overload = getattr(getattr(torch.ops.aten, found["name"]), found["overload"], None)
    return isinstance(overload, torch._ops.OpOverload) and not any(a.is_out for a in overload._schema.arguments)


def _is_size(text: str) -> bool:
    bare = _SYMBOL.sub("Symbol(s0", text)
    return _EXPRESSION.fullmatch(bare) is not None and all(map(_SIZE_NAME.fullmatch, _WORD.findall(bare)))


def _is_tree(spec: Any) -> bool:
    if isinstance(spec, list):
        return all(isinstance(part, int) or _is_tree(part) for part in spec)
    context = re.fullmatch(r'(null|\[("\w+"(, ?"\w+")*)?\])?', str(spec["context"] or ""))
    return spec["type"] in _TREE_TYPES and context is not None and all(map(_is_tree, spec["children_spec"]))
