"""Decide, in one place, on which device and with how many processor threads work is done."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iqa_armor.errors import UsageError

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")
_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,4})?")
MEMORY_VARIABLE = "IQA_ARMOR_MAX_MEMORY"  # bytes; processes that are started from here read it too
SPINS = "1000"  # of libgomp, before a thread sleeps
LAYOUT_VARIABLE = "IQA_ARMOR_CHANNELS_LAST"  # "1" where maps lie in memory with their channels last
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# OpenMP and MKL read these when torch is imported; threads that wait by spinning take the processor from others.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def choose_device(word: str = "auto") -> torch.device:
    """Return the device that a word names: "auto" (CUDA if here, else the processor), "cpu", "cuda" or "cuda:N".

    Of processes that a launcher started each gets a CUDA device of its own. A UsageError refuses what is not here.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if word == "auto":
        word = "cuda" if count else "cpu"
    if not _DEVICE.fullmatch(word):
        raise UsageError(f"there is no device {word!r}; known are auto, cpu, cuda and cuda:N")
    if word == "cpu":
        return torch.device("cpu")
    if not count:
        raise UsageError("there is no CUDA device here; use --device cpu or auto")
    index = int(word.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        raise UsageError(f"there is no device cuda:{index} here; this machine has {count}, from cuda:0 on")
    return torch.device("cuda", index)


def time_on(device: torch.device) -> float:
    """Return the seconds of a clock once a device has done all that it was asked to."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def cuda_devices() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(number) for number in range(count)]


def launched() -> tuple[int, int]:
    """Return the number of this process and the count of those that a launcher has started; a UsageError if unclear."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal()):
        raise UsageError(f"launchers set RANK and WORLD_SIZE to numbers, but they are {rank!r} and {size!r}")
    return (int(rank), int(size)) if int(size) > 1 else (0, 1)


def is_main_process() -> bool:
    """Return whether this process writes results: of those that a launcher has started, only the first does."""
    return launched()[0] == 0


def require_one_process() -> None:
    """Refuse (UsageError) work that a launcher has started several times: each process would have its own result."""
    if (count := launched()[1]) != 1:
        problem = f"a launcher has started {count} processes, and only evaluate shares its work among them"
        advice = "batches that are split would give other weights; start this without torchrun or accelerate launch"
        raise UsageError(f"{problem}: {advice}")


def usable_processors() -> int:
    """Return how many processors this process may keep busy: its affinity, and the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, int(quota + 0.5)))


def prepare_threads(count: int | None = None) -> None:
    """Say how many threads to use, and that idle ones soon wait passively; call it before torch is imported.

    Without a count it is what the environment says, else `usable_processors`; one below 1 is a UsageError.
    """
    if count is not None and count < 1:
        raise UsageError(f"--threads must be at least 1, got {count}")
    if "OMP_WAIT_POLICY" not in os.environ:
        # A few microseconds of spinning on the next piece of work save a sixth of the time where nothing else runs, and
        # cost nothing beside other processes, where torch's default of milliseconds takes ten times as long.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    for name in _THREADS:
        if count is not None or not os.environ.get(name):
            os.environ[name] = str(count or os.environ.get(_THREADS[0]) or usable_processors())
    torch: Any = sys.modules.get("torch")
    if torch and count not in (None, torch.get_num_threads()):
        torch.set_num_threads(count)


def prepare_memory(limit: str | None = None) -> None:
    """Say how much memory work on one file may take: "6G", at least "64M", else a UsageError; None changes nothing."""
    if limit is not None:
        os.environ[MEMORY_VARIABLE] = str(_size(limit))


def prepare_layout(*, channels_last: bool) -> None:
    """Lay maps in memory with their channels last, here and in processes started from here; False keeps what is."""
    if channels_last:
        os.environ[LAYOUT_VARIABLE] = "1"


@contextmanager
def laid_channels_last() -> Iterator[None]:
    """Lay maps in memory with their channels last while a block runs."""
    before = os.environ.get(LAYOUT_VARIABLE)
    os.environ[LAYOUT_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[LAYOUT_VARIABLE]
        else:
            os.environ[LAYOUT_VARIABLE] = before


def has_channels_last() -> bool:
    """Return whether maps lie in memory with their channels last, which most convolutions are faster on."""
    return os.environ.get(LAYOUT_VARIABLE) == "1"


def memory_limit() -> int:
    """Return how many bytes work on one file may take: as told (UsageError if that is none), or ¾ of what is here."""
    said = os.environ.get(MEMORY_VARIABLE)
    return _size(said) if said else _granted_memory() * 3 // 4


def _size(said: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMGT]?)i?B?", said.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 2**26:
        told = f"--max-memory takes a size such as 6G, from 64M on, and so does {MEMORY_VARIABLE}"
        raise UsageError(f"{told}; it is {said!r}")
    return size


@contextmanager
def capped() -> Iterator[None]:
    """Let a block take at most `memory_limit` beyond what is taken already, as Linux counts it; no cap elsewhere."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    except (ImportError, OSError, LookupError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = pages * os.sysconf("SC_PAGE_SIZE") + memory_limit()
    resource.setrlimit(resource.RLIMIT_DATA, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@cache
def _granted_memory() -> int:
    limits = [text for name in ("memory.max", "memory/memory.limit_in_bytes") for text in _contents(name)]
    granted = [int(text) for text in limits if text.isdecimal() and int(text)]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        granted.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(granted, default=8 * 2**30)


def onnx_session(model: str | bytes, device: str = "cpu") -> Any:
    """Return a session of onnxruntime for an ONNX file or its content, on CUDA where that is asked for and there."""
    import onnxruntime
    import torch

    wanted = ("CUDAExecutionProvider",) if device.startswith("cuda") else ()
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    return onnxruntime.InferenceSession(model, options, providers=providers)


def _quota() -> float | None:
    """Return the processors that the cgroup of this process grants, from version 2 or 1; None without a limit."""
    texts = _contents("cpu.max")
    pairs = [*zip(_contents("cpu/cpu.cfs_quota_us"), _contents("cpu/cpu.cfs_period_us"), strict=False)]
    # "max" and -1 are no limits.
    found = [re.fullmatch("([1-9][0-9]*) ([1-9][0-9]*)", text) for text in texts or map(" ".join, pairs)]
    return min((int(match[1]) / int(match[2]) for match in found if match), default=None)


def _contents(name: str) -> list[str]:
    """Return a file of this process's cgroup and of all cgroups around it, those that can be read."""
    found = []
    for folder in (CGROUPS, *_own_cgroups()):
        with suppress(OSError, UnicodeDecodeError):
            found.append((folder / name).read_text(encoding="ascii").strip())
    return found


def _own_cgroups() -> list[Path]:
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 2)[2].strip("/") for line in lines if line.startswith("0::")]
    own = [CGROUPS / name for name in names if name]
    return [folder for path in own for folder in (path, *path.parents) if folder.is_relative_to(CGROUPS)]
