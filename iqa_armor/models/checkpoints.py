"""Read other people's checkpoint files into state dicts, running no code unless asked to."""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from iqa_armor.errors import NETWORK_FAILURES, ModelLoadError
from iqa_armor.models.weights import RESCALING, listed, without_prefix
from iqa_armor.reading import first_line

SUFFIXES = (".safetensors", ".pt", ".pth", ".pkl", ".ckpt", ".th")
# Where training scripts nest the weights; an averaged copy, if there is one, is what they evaluate.
WRAPPER_KEYS = (
    *("params_ema", "state_dict_ema", "state_dict", "model_state_dict", "model_state"),
    *("params", "model", "net", "network", "weights"),
)
# Where Linearity's training script puts the numbers that bring its scores to the unit of the opinions.
RESCALING_KEYS = ("k", "b")
MAX_NESTING = 3
MAX_EXPANDED_BYTES = 2**28  # a tensor with strides of zero takes no room in the file
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
# How a file in torch's format before 1.6 begins.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# What reading a damaged file raises, in torch, pickle and zip.
READ_ERRORS = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, ImportError, OSError, MemoryError),
    *NETWORK_FAILURES,
)


def read_state(path: Path, *, trust_pickle: bool = False) -> dict[str, Tensor] | nn.Module:
    """Return the weights stored in a checkpoint file, on the CPU.

    Weights are found under the usual names (`WRAPPER_KEYS`, up to three deep); optimiser state and the like
    beside them is ignored, but for the numbers k and b of a linear rescaling, which come back under the names of
    `RESCALING`: networks that know them use them. A prefix `module.` that every name carries is taken off.
    With `trust_pickle` the file may run its author's code; a whole pickled module needs that.

    Raises:
        ModelLoadError: If the file is missing, damaged, no checkpoint, would run code, or holds NaN weights.
    """
    _check_file(path)
    stored = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, trust_pickle)
    found = _unwrap(stored)
    if isinstance(found, nn.Module):
        check_finite(found.state_dict(), str(path))
        return found
    state = _tensors(found, path)
    rescaling = {} if found is stored else _rescaling(stored)
    check_finite({**state, **rescaling}, str(path))
    return {**without_prefix(state, "module."), **rescaling}


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise a ModelLoadError that names the first ten weights with NaN or infinities, if there are any."""
    broken = []
    for name, value in state.items():
        is_tiny = value.is_floating_point() and value.element_size() == 1  # torch cannot tell of 8-bit floats
        if not torch.isfinite(value.float() if is_tiny else value).all():
            broken.append(name)
    if broken:
        raise ModelLoadError(
            f"{source} has NaN or infinite weights in {listed(broken)}; use a checkpoint from before training diverged"
        )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ModelLoadError(f"{path} is a folder; name the checkpoint file in it")
    if not path.is_file():
        raise ModelLoadError(f"there is no model file {path}")
    if path.suffix not in SUFFIXES:
        kind = "an exported graph" if path.suffix in (".onnx", ".pt2") else "of an unknown kind"
        raise ModelLoadError(f"{path} is {kind}; a checkpoint ends in {', '.join(SUFFIXES)}")
    if not path.stat().st_size:
        raise ModelLoadError(f"{path} is empty")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        # Copies, because the file may change or vanish while it is mapped.
        return {name: value.clone() for name, value in load_file(path, device="cpu").items()}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ModelLoadError(f"{path} is damaged or no safetensors file: {error}") from error


def _read_pickle(path: Path, trust_pickle: bool) -> object:
    try:
        with path.open("rb") as file:
            start = file.read(len(LEGACY_MAGIC))
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(ZIP_MAGIC):
        _check_archive(path)
    elif not start.startswith(PICKLE_MAGIC):
        raise ModelLoadError(f"{path} is no checkpoint: it is neither a torch archive nor a pickle")
    is_plain_pickle = start.startswith(PICKLE_MAGIC) and start != LEGACY_MAGIC
    if is_plain_pickle and not trust_pickle:
        raise ModelLoadError(_explanation(path, "it is a plain pickle, not written by torch.save"))
    return _load(path, trust_pickle, is_plain=is_plain_pickle)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ModelLoadError(f"{path} is truncated or damaged: {error}") from error
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise ModelLoadError(
            f"{path} is a TorchScript archive, whose graph cannot be edited; save the model's state_dict() instead"
        )
    if "data.pkl" not in names:
        raise ModelLoadError(f"{path} is an archive but no torch checkpoint: it has no data.pkl")


def _load(path: Path, trust_pickle: bool, *, is_plain: bool) -> object:
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            if is_plain:
                return pickle.load(file)
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except RecursionError as error:
        raise ModelLoadError(f"{path} is damaged: its contents are nested too deep") from error
    except READ_ERRORS as error:
        raise ModelLoadError(_reason(path, error, trust_pickle)) from error


def _reason(path: Path, error: BaseException, trust_pickle: bool) -> str:
    text = str(error)
    if not trust_pickle and isinstance(error, pickle.UnpicklingError):
        asked = re.search(r"GLOBAL ([\w.]+)", text)
        if asked is not None:
            return _explanation(path, f"it asks for {asked[1]}")
    if isinstance(error, ImportError | AttributeError):
        return f"{path} needs its author's source code, which is not importable here: {text}"
    return f"{path} is truncated, damaged or no checkpoint: {first_line(error)}"


def _explanation(path: Path, why: str) -> str:
    return (
        f"{path} would run its author's code when opened ({why}), so it was not opened; save the model's "
        "state_dict() instead or, if you trust its author, add --trust-pickle, which runs that code"
    )


def _unwrap(stored: object) -> object:
    for _ in range(MAX_NESTING):
        if not isinstance(stored, Mapping) or any(
            isinstance(value, Tensor) for key, value in stored.items() if key not in RESCALING_KEYS
        ):
            return stored
        inner = next((stored[key] for key in WRAPPER_KEYS if isinstance(stored.get(key), Mapping | nn.Module)), None)
        if inner is None:
            return stored
        stored = inner
    return stored


def _rescaling(stored: object) -> dict[str, Tensor]:
    """Return k and b stored beside the weights; of a list the first, which belongs to the score proper."""
    if not isinstance(stored, Mapping):
        return {}
    try:
        first = [float(torch.as_tensor(stored[key]).flatten()[0]) for key in RESCALING_KEYS]
    except (LookupError, TypeError, ValueError, RuntimeError):
        return {}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(RESCALING, first, strict=True)}


def _tensors(found: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise ModelLoadError(f"{path} holds a {type(found).__name__}, not the weights of a model")
    if not any(isinstance(value, Tensor) for value in found.values()):
        keys = listed(str(key) for key in found)
        raise ModelLoadError(
            f"{path} has no weights: none under {', '.join(WRAPPER_KEYS)}; it holds {keys or 'nothing'}"
        )
    others = [str(name) for name, value in found.items() if not isinstance(name, str) or not _is_plain(value)]
    if others:
        raise ModelLoadError(f"{path} mixes weights with entries that are none: {listed(others)}")
    return {name: value.detach() for name, value in found.items()}


def _is_plain(value: object) -> bool:
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized or value.layout != torch.strided:
        return False
    return value.nbytes <= max(value.untyped_storage().nbytes(), MAX_EXPANDED_BYTES)
