"""The file formats of an export: how each is written and read back."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from iqa_armor.errors import NETWORK_FAILURES, ArmorError, UsageError
from iqa_armor.export.capture import Captured, first_line

METADATA_KEY = "iqa_armor"
EXTRA_FILE = "iqa_armor.json"
INPUT, OUTPUT = "images", "scores"
AXES = ("batch", "channels", "height", "width")
# A protobuf message ends at 2 GiB; the graph itself needs a little of it.
ONNX_LIMIT = 2**31 - 2**22

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        name: What reports call it.
        needs: Modules it takes, of the extra `onnx`.
        write: Writes a captured graph and a text of metadata to a path.
        read: Opens a file; returns its metadata and a function from images to scores.
    """

    name: str
    needs: tuple[str, ...]
    write: Callable[[Captured, Path, str], None]
    read: Callable[[Path], tuple[str, Score]]


def write_onnx(captured: Captured, path: Path, metadata: str) -> None:
    """Write one ONNX file with its weights inside.

    Raises:
        ArmorError: If the weights exceed what such a file holds, or an operation has no ONNX form.
    """
    if captured.weight_bytes > ONNX_LIMIT:
        raise ArmorError(
            f"an ONNX file holds at most 2 GiB and this model takes {captured.weight_bytes / 2**30:.2f} GiB; "
            "export to .pt2, or a smaller --input-size"
        )
    with _quiet():
        try:
            program = torch.onnx.export(
                captured.program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
            )
        except NETWORK_FAILURES as error:
            raise ArmorError(f"this network has no ONNX form: {first_line(error)}") from error
        if program is None:
            raise ArmorError("the ONNX exporter of this PyTorch gave nothing back; update torch and onnxscript")
        sides = program.model.graph.inputs[0].shape or ()
        program.rename_axes(
            {str(side): name for side, name in zip(sides, AXES, strict=True) if not isinstance(side, int)}
        )
        program.model.metadata_props[METADATA_KEY] = metadata
        program.save(str(path), external_data=False)


def read_onnx(path: Path) -> tuple[str, Score]:
    """Return the metadata of an ONNX file and how onnxruntime scores with it on the CPU.

    Raises:
        ArmorError: If onnxruntime refuses the file, or later an input.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    failures = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise ArmorError(f"onnxruntime refuses the exported file: {first_line(error)}") from error

    def score(images: Tensor) -> Tensor:
        try:
            (scores,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        except failures as error:
            raise ArmorError(f"onnxruntime fails on images {tuple(images.shape)}: {first_line(error)}") from error
        return torch.from_numpy(scores)

    return session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, ""), score


def write_pt2(captured: Captured, path: Path, metadata: str) -> None:
    """Write a torch.export archive.

    Raises:
        ArmorError: If the graph holds something that has no stored form.
    """
    try:
        with _quiet():
            torch.export.save(captured.program, path, extra_files={EXTRA_FILE: metadata})
    except NETWORK_FAILURES as error:
        raise ArmorError(f"torch.export cannot store this network: {first_line(error)}") from error


def read_pt2(path: Path) -> tuple[str, Score]:
    """Return the metadata of a torch.export archive and how it scores.

    Raises:
        ArmorError: If torch refuses the file, or later an input.
    """
    extra = {EXTRA_FILE: ""}
    try:
        with _quiet():
            module = torch.export.load(path, extra_files=extra).module()
    except NETWORK_FAILURES as error:
        raise ArmorError(f"torch.export refuses the exported file: {first_line(error)}") from error

    def score(images: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                scores: Tensor = module(images)
        except NETWORK_FAILURES as error:
            raise ArmorError(f"the exported file fails on images {tuple(images.shape)}: {first_line(error)}") from error
        return scores

    text = extra[EXTRA_FILE]
    return text.decode() if isinstance(text, bytes) else text, score


FORMATS: Mapping[str, Format] = {
    ".onnx": Format("ONNX", ("onnx", "onnxruntime", "onnxscript"), write_onnx, read_onnx),
    ".pt2": Format("torch.export", (), write_pt2, read_pt2),
}


def format_of(path: Path) -> Format:
    """Return the format that a file's name asks for, once everything it takes is installed.

    Raises:
        UsageError: If the suffix is not that of a format.
        ArmorError: If the optional extra is missing.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"an export is named OUT.onnx or OUT.pt2, and {path.name!r} ends in neither")
    chosen = FORMATS[path.suffix]
    missing = [name for name in chosen.needs if find_spec(name) is None]
    if missing:
        raise ArmorError(
            f"{chosen.name} takes {', '.join(missing)}, not installed here; run pip install 'iqa-armor[onnx]'"
        )
    return chosen


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporters that print and warn about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
