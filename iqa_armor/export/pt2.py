"""The archive of torch.export."""

import io
from pathlib import Path

import torch
from torch import Tensor

from iqa_armor.errors import NETWORK_FAILURES, ArmorError, first_line
from iqa_armor.export.capture import Captured, quiet
from iqa_armor.export.formats import METADATA_KEY, Format, Score

EXTRA_FILE = f"{METADATA_KEY}.json"


def write(captured: Captured, path: Path, metadata: str) -> None:
    archive = io.BytesIO()
    try:
        with quiet():
            # Into memory: where a disk is full, torch's own writer of files ends the process.
            torch.export.save(captured.program, archive, extra_files={EXTRA_FILE: metadata})
    except NETWORK_FAILURES as error:
        raise ArmorError(f"torch.export cannot store this network: {first_line(error)}") from error
    path.write_bytes(archive.getbuffer())


def read(path: Path) -> tuple[str, Score]:
    extra = {EXTRA_FILE: ""}
    try:
        with quiet():
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


FORMAT = Format("torch.export", (), write, read)
