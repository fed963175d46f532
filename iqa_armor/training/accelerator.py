"""Hugging Face Accelerate, kept to one device and hidden from whoever else uses it in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from iqa_armor.machine import require_one_process

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def accelerator_on(device: torch.device, *, precision: str) -> Iterator[Accelerator]:
    """Give an Accelerator that computes on exactly this device, whatever else the machine has.

    Accelerate keeps one state per process, in which a caller's own Accelerator would have to fit this one's precision
    ("no", "bf16" or "fp16") and device: while the block runs that state is set aside. Several processes of a launcher
    are a UsageError.
    """
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.utils import patch_environment

    require_one_process()
    is_cuda = device.type == "cuda"
    # What a launcher or a user has said in these variables would be stronger than the arguments.
    said = patch_environment(ACCELERATE_TORCH_DEVICE=device, ACCELERATE_USE_CPU=not is_cuda)
    with _state_set_aside(), said:
        yield Accelerator(
            mixed_precision=precision,
            cpu=not is_cuda,
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, non_blocking=is_cuda),
        )


@contextmanager
def _state_set_aside() -> Iterator[None]:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = (AcceleratorState, PartialState, GradientState)
    kept = [vars(state)["_shared_state"] for state in states]
    try:
        for state in states:
            state._shared_state = {}
        yield
    finally:
        for state, shared in zip(states, kept, strict=True):
            state._shared_state = shared
