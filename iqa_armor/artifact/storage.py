"""Write and read artifacts: one self-contained safetensors file per model, no pickle, no source code."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, fx, nn

from iqa_armor.artifact import settings
from iqa_armor.artifact.checks import MAX_HEADER_BYTES, FormatError, expect_fields, shown, within
from iqa_armor.artifact.decode import decode_network
from iqa_armor.artifact.encode import check_finite, encode_network
from iqa_armor.artifact.header import METADATA_KEY, TensorInfo, parse_json, read_entries, read_header
from iqa_armor.artifact.layers import SOURCE
from iqa_armor.artifact.rehearsal import ANY_SIZE, rehearse
from iqa_armor.errors import ModelLoadError, reason_of
from iqa_armor.files import write_whole
from iqa_armor.graph.interpret import FIXED_SIZE, notes_of
from iqa_armor.machine import capped
from iqa_armor.models.base import QualityModel
from iqa_armor.models.outputs import DRAWS, followed

logger = logging.getLogger(__name__)
T = TypeVar("T")
FORMAT = 1
PUBLIC_FIELDS = ("format", "needs_source", "name", "arch", "preprocessing", "score_scale", "recipe", "provenance")
FIELDS = frozenset({*PUBLIC_FIELDS, "nodes", "leaves", "attributes", "tensors"})
OPTIONAL = frozenset({FIXED_SIZE, settings.TRAINING})
NO_RECORDS: dict[str, object] = {"recipe": {}, "provenance": {}}


def save_artifact(
    model: QualityModel,
    path: Path | str,
    *,
    recipe: dict[str, object] | None = None,
    provenance: dict[str, object] | None = None,
) -> None:
    """Write a model into one safetensors file that loads without the user's source code.

    The file appears under its name whole or not at all. A network that is no graph yet is traced first;
    modules that its graph never calls are left out. What is written is checked as `load_artifact` checks it.

    Args:
        model: What to store.
        path: The file, replaced if it exists; its folder must exist.
        recipe: Settings of the hardening, JSON values; recorded, never acted on.
        provenance: Where the model comes from, JSON values; recorded, never acted on. NaN becomes null.

    Raises:
        ModelLoadError: If a layer, function or argument has no stored form, or a weight is not finite.
        SurgeryError: If the network must be traced and cannot be.
        OutputError: If the file cannot be written.
        ValueError: If recipe or provenance hold more than JSON values.
    """
    given = {"recipe": recipe or {}, "provenance": provenance or {}}
    records = {name: settings.plain(record, name) for name, record in given.items()}
    with within(f"{model.name} cannot be stored in {path}:", ModelLoadError):
        metadata, tensors, _ = _encoded(model, records)
    write_whole(path, save(tensors, metadata))


def check_storable(model: QualityModel) -> None:
    """Check, before any training, that a model has a stored form; a ModelLoadError names what has none."""
    with within(f"{model.name} could not be stored once it is hardened:", ModelLoadError):
        _encoded(model, NO_RECORDS)


def rebuilt(model: QualityModel) -> QualityModel:
    """Return what opening a file would give into which a model was written, without writing one."""
    _, tensors, again = _encoded(model, NO_RECORDS)
    again.network.load_state_dict(tensors, strict=True, assign=True)
    return again.eval()


def _encoded(
    model: QualityModel, records: Mapping[str, object]
) -> tuple[dict[str, str], dict[str, Tensor], QualityModel]:
    """Return a model's metadata and tensors, and the model rebuilt from them, on the meta device."""
    network = model.network
    if not isinstance(network, fx.GraphModule):
        size = model.preprocessing.size or ANY_SIZE
        noise = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        network = followed(network, noise.to(model.mean.device))
    description, tensors = encode_network(network)
    needs_source = any(leaf["class"] == SOURCE for leaf in description["leaves"].values())  # type: ignore[attr-defined]
    document = {"format": FORMAT, "needs_source": needs_source, **settings.describe(model), **records, **description}
    metadata = {METADATA_KEY: json.dumps(document, allow_nan=False, separators=(",", ":"))}
    header = {name: TensorInfo.of(value) for name, value in tensors.items()}
    return metadata, tensors, _rebuild(_document(metadata), header, network)


@torch.inference_mode(mode=False)  # what is loaded must serve gradients too, wherever it is loaded
def load_artifact(path: Path | str, source: nn.Module | None = None) -> QualityModel:
    """Return the model stored in an artifact, in eval mode on the CPU; safe to call on a stranger's file.

    Nothing in the file is executed. The memory and operations that its graph takes are bounded at the recorded image
    size (--max-memory, `checks.MAX_OPERATIONS`); images of other sizes may take more. Each score depends on its own
    image only: a graph that changes its tensors is refused, one that mixes images gets them one by one. For a file that
    needs its source, `source` is a network with the parts that are user code, which do run. A ModelLoadError says that
    the file is missing, damaged, or holds anything that is not in the tables.
    """
    path = Path(path)
    with within(f"{path} is refused:", ModelLoadError):
        metadata, header = _opened(path, read_header)
        model = _rebuild(_document(metadata), header, source)
        model.network.load_state_dict(_read_tensors(path, header), strict=True, assign=True)
    if notes_of(model.network).get(DRAWS):
        logger.warning("%s draws random numbers; here it draws the same ones for every image", path)
    return model.eval()


def read_metadata(path: Path | str) -> dict[str, object]:
    """Return what an artifact records beside its network, `PUBLIC_FIELDS`, as plain JSON values."""
    with within(f"{path} is refused:", ModelLoadError):
        document = _document(_opened(Path(path), read_entries)[0])
    return {name: document[name] for name in PUBLIC_FIELDS}


def is_artifact(path: Path | str) -> bool:
    """Return whether a file says that it is an artifact; only its header is read."""
    try:
        return Path(path).is_file() and METADATA_KEY in read_entries(Path(path))[0]
    except (FormatError, OSError):
        return False


def _opened(path: Path, read: Callable[[Path], T]) -> T:
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise ModelLoadError(f"{path} {kind}; name an iqa-armor model file")
    try:
        return read(path)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error


def _document(metadata: Mapping[str, str]) -> dict[str, object]:
    """Return the checked description of a model, all but its network."""
    if METADATA_KEY not in metadata:
        raise FormatError(
            f"it has no {METADATA_KEY!r} metadata, so it is no iqa-armor model; a state dict needs --arch"
        )
    text = metadata[METADATA_KEY]
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(f"its description has {len(text)} characters; at most {MAX_HEADER_BYTES} are allowed")
    parsed = parse_json(text)
    given = parsed if isinstance(parsed, dict) else {}
    version = given.get("format")
    if type(version) is not int or version != FORMAT:
        raise FormatError(
            f"it has format {shown(version)} and this version reads {FORMAT}; a newer iqa-armor may open it"
        )
    document = expect_fields(parsed, FIELDS | OPTIONAL.intersection(given), "its description")
    for record in ("recipe", "provenance"):
        settings.check_record(document[record], record)
    settings.read_names(document)
    return document


def _rebuild(document: dict[str, object], tensors: Mapping[str, TensorInfo], source: nn.Module | None) -> QualityModel:
    """Return the described model on the meta device; what is of `source` is where that is."""
    if document["needs_source"] is not False and (document["needs_source"] is not True or source is None):
        raise FormatError("parts of its network are user code that is not in the file; name their source with --arch")
    network = decode_network(document, tensors, source if document["needs_source"] else None)
    model = settings.model_of(document, network)
    if not document["needs_source"]:  # user code need not run without memory
        rehearse(network, model.preprocessing.size)
    return model


def _read_tensors(path: Path, header: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    """Return the tensors of a file whose header has been checked, in memory of their own."""
    try:
        with capped(), safe_open(path, framework="pt", device="cpu") as file:
            # A clone does not depend on the file, which may change or vanish while it is mapped.
            tensors = {name: file.get_tensor(name).clone() for name in header}
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:
        raise FormatError(f"its tensors cannot be read: {reason_of(error)}") from error
    for name, value in tensors.items():
        if TensorInfo.of(value) != header[name]:
            raise FormatError(f"it changed while it was read: tensor {shown(name)}")
    check_finite(tensors)
    return tensors
