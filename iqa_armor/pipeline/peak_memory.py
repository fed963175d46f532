"""Peak memory of one model's work: on the CPU measured in a process of its own."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from iqa_armor.errors import ArmorError
from iqa_armor.pipeline.load import load_model
from iqa_armor.pipeline.opening import Opening
from iqa_armor.pipeline.timed_model import Task, TimedModel

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Request:
    """What a process of its own shall measure: one task on `batch` images of `size`, with as many threads as here."""

    path: Path
    opening: Opening
    size: tuple[int, int]
    batch: int
    task: Task
    cache_limit: int | None
    threads: int


def measured_apart(request: Request) -> int | None:
    """Return the peak memory in bytes of a model's first call in a fresh process, or None where unknown here.

    That is the model's parameters and buffers plus the growth of the resident set while it works, caches,
    gradients and optimizer state included. A process that fails is an ArmorError.
    """
    code = "from iqa_armor.pipeline.peak_memory import main; main()"
    # Our own request to our own process: nothing foreign is unpickled.
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(request), capture_output=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise ArmorError(
            f"the process that measures the memory of {request.path} failed: {lines[-1]}; "
            "--no-memory leaves that figure out"
        )
    answer: int | None = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return answer


def cuda_peak(model: TimedModel, task: Task, batch: int) -> int:
    """Return the most memory that a model and its work take on a CUDA device, by the allocator's statistics.

    That is its parameters and buffers plus the growth while it works, caches and optimizer state included; the
    images are not.
    """
    model.forget()
    images = model.images(batch)
    torch.cuda.synchronize(model.device)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    model.work(task)(images)
    torch.cuda.synchronize(model.device)
    return torch.cuda.max_memory_allocated(model.device) - before + model.own_bytes


def main() -> None:
    """Answer the request on stdin with one line of JSON."""
    request: Request = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(request.threads)
    model = load_model(request.path, opening=request.opening)
    timed = TimedModel(model, size=request.size, device=torch.device("cpu"), cache_limit=request.cache_limit)
    images = timed.images(request.batch)
    grown = _growth(lambda: timed.work(request.task)(images))
    sys.stdout.write(f"\n{json.dumps(None if grown is None else grown + timed.own_bytes)}\n")


def _growth(work: Callable[[], None]) -> int | None:
    """Return by how much the resident set's highest mark passes its size before `work`.

    Linux lets a process reset that mark; elsewhere the mark that loading left is the start, which can only
    make the growth look smaller.
    """
    if _reset_mark():
        before = _kilobytes("VmRSS")
        work()
        return 1024 * max(0, _kilobytes("VmHWM") - before)
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)


def _reset_mark() -> bool:
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return STATUS.is_file() and "VmHWM" in STATUS.read_text()


def _kilobytes(field: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
