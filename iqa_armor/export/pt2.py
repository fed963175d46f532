"""The archive of torch.export."""

import io
from pathlib import Path

import torch
from torch import Tensor

from iqa_armor.errors import failing
from iqa_armor.export.capture import METADATA_KEY, Captured, Format, Score, quiet

EXTRA_FILE = f"{METADATA_KEY}.json"


def write(captured: Captured, path: Path, metadata: str) -> None:
    archive = io.BytesIO()
    with failing("torch.export cannot store this network"), quiet():
        # Into memory: where a disk is full, torch's own writer of files ends the process.
        torch.export.save(captured.program, archive, extra_files={EXTRA_FILE: metadata})
    path.write_bytes(archive.getbuffer())


def read(path: Path) -> tuple[str, Score]:
    extra = {EXTRA_FILE: ""}
    with failing("torch.export refuses the exported file"), quiet():
        module = torch.export.load(path, extra_files=extra).module()

    def score(images: Tensor) -> Tensor:
        with failing(f"the exported file fails on images {tuple(images.shape)}"), torch.no_grad():
            return module(images)  # type: ignore[no-any-return]

    text = extra[EXTRA_FILE]
    return text.decode() if isinstance(text, bytes) else text, score


FORMAT = Format("torch.export", (), write, read)
