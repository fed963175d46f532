"""Tell one model's weights from another's."""

from __future__ import annotations

import hashlib

import torch

from iqa_armor.models.base import QualityModel


def state_digest(model: QualityModel) -> str:
    """Return a digest (sha256, 16 hexadecimal digits) of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
