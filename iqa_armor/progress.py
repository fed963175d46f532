"""How long work tells what it is doing."""

from typing import Protocol


class Progress(Protocol):
    """Receiver of progress; the command line draws bars, a library user may pass anything callable."""

    def __call__(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Note that `done` of `total` steps of `task` are finished, with a word on how it goes."""
        ...


def silent(task: str, done: int, total: int, detail: str = "") -> None:
    """Ignore progress."""
