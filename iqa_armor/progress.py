"""How long work tells what it is doing."""

import sys
from typing import Protocol


class Progress(Protocol):
    """Receiver of progress; the command line draws bars, a library user may pass anything callable."""

    def __call__(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Note that `done` of `total` steps of `task` are finished, with a word on how it goes."""


def silent(task: str, done: int, total: int, detail: str = "") -> None:
    """Ignore progress."""


def automatic(task: str, done: int, total: int, detail: str = "") -> None:
    """Say how far work is in a notebook, on a line that is written anew each time; elsewhere nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel"):
        told = f"{task}: {done} of {total} {detail}"
        sys.stderr.write(f"\r{told:<79}" + "\n" * (done == total))
        sys.stderr.flush()
