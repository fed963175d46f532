"""Hugging Face Accelerate, kept to one device and hidden from whoever else uses it in this process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from iqa_armor.errors import OutputError, UsageError, calling
from iqa_armor.machine import require_one_process

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def accelerator_on(
    device: torch.device, *, precision: str, log_to: str | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[Accelerator]:
    """Give an Accelerator that computes on exactly this device, whatever else the machine has.

    Accelerate keeps one state per process, in which a caller's own Accelerator would have to fit this one's precision
    ("no", "bf16" or "fp16") and device: while the block runs that state is set aside. Several processes of a launcher
    are a UsageError, trackers that cannot be started an OutputError; they are told the settings and what is logged.
    """
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.utils import patch_environment

    require_one_process()
    on_cpu = device.type != "cuda"
    # What a launcher or a user has said in these variables would be stronger than the arguments.
    said = patch_environment(ACCELERATE_TORCH_DEVICE=device, ACCELERATE_USE_CPU=on_cpu)
    names, folder = trackers(log_to)
    config = DataLoaderConfiguration(use_seedable_sampler=True, non_blocking=not on_cpu)
    with _state_set_aside(), said:
        accelerator = Accelerator(
            cpu=on_cpu, mixed_precision=precision, dataloader_config=config, log_with=names or None, project_dir=folder
        )
        if not names:
            yield accelerator
            return
        plain = {name: value for name, value in (settings or {}).items() if isinstance(value, int | float | str)}
        with calling(f"--log-to {log_to}", OutputError, says="cannot be started"):
            accelerator.init_trackers("iqa-armor", plain)
        try:
            yield accelerator
        finally:
            accelerator.end_training()


def log_epoch(accelerator: Accelerator, epoch: Any) -> None:
    """Tell trackers the finite figures of an epoch, a dataclass with its `number`."""
    figures = {name: value for name, value in asdict(epoch).items() if value is not None and name != "number"}
    accelerator.log({name: value for name, value in figures.items() if math.isfinite(value)}, step=epoch.number)


def trackers(log_to: str | None) -> tuple[list[str], str]:
    """Return the trackers that "NAME,…[:DIR]" names and their folder; a UsageError if one is unknown or missing."""
    if not log_to:
        return [], "runs"
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    names, _, folder = log_to.partition(":")
    wanted, installed = names.split(","), {str(each) for each in get_available_trackers()}
    for name in wanted:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"--log-to knows no tracker {name!r}; known are {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in installed:
            raise UsageError(f"--log-to {name} needs a package that is not installed: pip install {name}")
    return wanted, folder or "runs"


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
