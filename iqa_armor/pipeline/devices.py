"""Choose where to compute."""

from __future__ import annotations

import torch

from iqa_armor.errors import UsageError


def choose_device(name: str) -> str:
    """Return the torch device of "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        UsageError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; use --device cpu or auto")
    return name
