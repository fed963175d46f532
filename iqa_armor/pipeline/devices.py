"""Choose where to compute."""

from __future__ import annotations

import os

import torch

from iqa_armor.errors import UsageError


def choose_device(name: str) -> str:
    """Return the torch device of "auto" (CUDA where there is one), "cpu" or "cuda".

    Of several processes that a launcher started on a machine, each gets a CUDA device of its own.

    Raises:
        UsageError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; use --device cpu or auto")
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if name == "cuda" and rank is not None else name
