"""Read other people's checkpoint files into state dicts, running no code unless asked to."""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from iqa_armor.errors import NETWORK_FAILURES, ModelLoadError, failing, reading, reason_of
from iqa_armor.machine import capped, memory_limit
from iqa_armor.models.nesting import WRAPPER_KEYS, find_weights
from iqa_armor.models.plain_data import PickledArray, stand_ins
from iqa_armor.models.weights import RESCALING, RESCALING_KEYS, listed

MAX_EXPANDED_BYTES = 2**28  # a tensor with strides of zero takes no room in the file
ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of torch's format before 1.6
# What people take for checkpoints, by how it begins, and what to do about it.
OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x89HDF": "an HDF5 file, as Keras writes them; save the weights of the PyTorch model",
    b"{": "JSON, perhaps the index of a model in several parts; join the parts into one state dict",
    b"<": "a web page; download the file itself",
}
# What reading a damaged file raises, in torch, pickle and zip.
READ_ERRORS = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, ImportError, OSError, MemoryError),
    *NETWORK_FAILURES,
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    weights: dict[str, Tensor] | nn.Module  # its weights by name, on the CPU, or a whole pickled module
    key: str = ""  # where in the file they lay, "" at the top
    remarks: tuple[str, ...] = ()  # what the user should know of how they were chosen

    @property
    def state(self) -> dict[str, Tensor]:
        return self.weights.state_dict() if isinstance(self.weights, nn.Module) else self.weights


def read_checkpoint(path: Path, *, trust_pickle: bool = False, weights_key: str | None = None) -> Checkpoint:
    """Return what a checkpoint file holds; its content decides how it is read, not its name.

    Weights are found as `find_weights` says; what lies beside them is ignored, but for a linear rescaling k, b, which
    comes back under the names of `RESCALING`. With `trust_pickle` the file may run its author's code, as a whole
    pickled module must. A ModelLoadError refuses a file that is missing, damaged or no checkpoint, would run code, or
    holds NaN weights, several sets of weights of which none is the usual, or none under `weights_key`.
    """
    stored = _stored_in(path, trust_pickle)
    found, remarks = find_weights(stored, key=weights_key, source=str(path))
    if found is not None and isinstance(found.value, nn.Module):
        check_finite(found.value.state_dict(), str(path))
        return Checkpoint(found.value, found.key, tuple(remarks))
    state, others = _tensors(stored if found is None else found.value, path)
    if others:
        remarks.append(f"{path}: left out, since they are no weights: {listed(others)}")
    rescaling = _rescaling(stored) if found is not None and found.keys else {}
    check_finite({**state, **rescaling}, str(path))
    return Checkpoint({**state, **rescaling}, found.key if found else "", tuple(remarks))


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise a ModelLoadError that names the first ten weights with NaN or infinities, if there are any."""
    # torch cannot tell of 8-bit floats
    tiny = {name for name, value in state.items() if value.is_floating_point() and value.element_size() == 1}
    broken = [n for n, value in state.items() if not torch.isfinite(value.float() if n in tiny else value).all()]
    if broken:
        advice = "use a checkpoint from before training diverged"
        raise ModelLoadError(f"{source} has NaN or infinite weights in {listed(broken)}; {advice}")


def _stored_in(path: Path, trust_pickle: bool) -> object:
    if path.is_dir():
        raise ModelLoadError(f"{path} is a folder; name the checkpoint file in it")
    if not path.is_file():
        raise ModelLoadError(f"there is no model file {path}")
    with reading(path, ModelLoadError), path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ModelLoadError(f"{path} is empty")
    # A safetensors file begins with a length and a JSON object, or is called so and begins like nothing else.
    length = int.from_bytes(start[:8], "little")
    is_called_so = path.suffix.lower() == ".safetensors" and not start.startswith((ZIP_MAGIC, PICKLE_MAGIC))
    if not is_called_so and (start[8:9] != b"{" or length > path.stat().st_size - 8):
        return _read_pickle(path, start, trust_pickle)
    # Copies, because the file may change or vanish while it is mapped.
    with reading(path, ModelLoadError, says="is damaged or no safetensors file"), capped():
        return {name: value.clone() for name, value in load_file(path, device="cpu").items()}


def _read_pickle(path: Path, start: bytes, trust_pickle: bool) -> object:
    if start.startswith(ZIP_MAGIC):
        _check_archive(path)
    elif not start.startswith(PICKLE_MAGIC):
        raise ModelLoadError(f"{path} is no checkpoint: {_what_it_is(path, start)}")
    is_plain_pickle = start.startswith(PICKLE_MAGIC) and not start.startswith(LEGACY_MAGIC)
    if is_plain_pickle and not trust_pickle:
        raise ModelLoadError(_explanation(path, "it is a plain pickle, not written by torch.save"))
    try:
        with capped(), warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            if is_plain_pickle:
                return pickle.load(file)
            if trust_pickle:
                return torch.load(file, map_location="cpu", weights_only=False)
            with torch.serialization.safe_globals(stand_ins()):
                return torch.load(file, map_location="cpu", weights_only=True)
    except RecursionError as error:
        raise ModelLoadError(f"{path} is damaged: its contents are nested too deep") from error
    except READ_ERRORS as error:
        raise ModelLoadError(_reason(path, error, trust_pickle)) from error


def _what_it_is(path: Path, start: bytes) -> str:
    neither = "neither a torch archive nor a pickle nor in the safetensors format"
    known = next((what for magic, what in OTHERS.items() if start.lstrip().startswith(magic)), neither)
    return f"it is {'an exported graph' if path.suffix.lower() == '.onnx' else known}"


def _check_archive(path: Path) -> None:
    failures = (zipfile.BadZipFile, ValueError, NotImplementedError, OSError)
    with failing(f"{path} is truncated or damaged", failures, error=ModelLoadError), zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > memory_limit():
        raise ModelLoadError(f"{path} has {unpacked} bytes once unpacked, more than --max-memory allows")
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        what = "a TorchScript archive, whose graph cannot be edited"
        raise ModelLoadError(f"{path} is {what}; save the model's state_dict() instead")
    if "data.pkl" not in names:
        exported = any(name.startswith("models/") for name in names)
        what = "an exported graph" if exported else f"an archive but no torch checkpoint: it has {listed(names, 3)}"
        raise ModelLoadError(f"{path} is {what}; unpack it if it holds one, or save the model's state_dict()")


def _reason(path: Path, error: BaseException, trust_pickle: bool) -> str:
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked and not trust_pickle and isinstance(error, pickle.UnpicklingError):
        return _explanation(path, f"it asks for {asked[1]}")
    if isinstance(error, ImportError | AttributeError):
        return f"{path} needs its author's source code, which is not importable here: {error}"
    return f"{path} is truncated, damaged or no checkpoint: {reason_of(error)}"


def _explanation(path: Path, why: str) -> str:
    return (
        f"{path} would run its author's code when opened ({why}), so it was not opened; save the model's "
        "state_dict() instead or, if you trust its author, add --trust-pickle, which runs that code"
    )


def _rescaling(stored: object) -> dict[str, Tensor]:
    """Return k and b stored beside the weights; of a list the first, which belongs to the score proper."""
    if not isinstance(stored, Mapping):
        return {}
    try:
        first = [float(torch.as_tensor(_as_tensor(stored[key])).flatten()[0]) for key in RESCALING_KEYS]
    except (LookupError, TypeError, ValueError, RuntimeError):
        return {}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(RESCALING, first, strict=True)}


def _tensors(found: object, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a mapping by name, and the names of what else it holds."""
    if not isinstance(found, Mapping):
        raise ModelLoadError(f"{path} holds a {type(found).__name__}, not the weights of a model")
    values = {name: _as_tensor(value) for name, value in found.items()}
    state = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    if not state:
        holds = listed(map(str, found)) or "nothing"
        raise ModelLoadError(f"{path} has no weights: none under {', '.join(WRAPPER_KEYS)}; it holds {holds}")
    unusable = [str(name) for name, value in state.items() if not isinstance(name, str) or not _is_plain(value)]
    if unusable:
        are = "without a name, without values, quantised, sparse or too large"
        raise ModelLoadError(f"{path} has weights {are}: {listed(unusable)}")
    return state, [str(name) for name in values if name not in state]


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(value.value) if isinstance(value, PickledArray) and value.value is not None else value


def _is_plain(value: Tensor) -> bool:
    if value.is_meta or value.is_quantized or value.layout != torch.strided:
        return False
    return value.nbytes <= max(value.untyped_storage().nbytes(), MAX_EXPANDED_BYTES)
