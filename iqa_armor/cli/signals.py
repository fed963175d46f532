"""How the command line ends from outside: on signals, and where its output can no longer be written."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iqa_armor.errors import OutputError, Stopped

RESUME = "the state after the last epoch is kept; run the same command with --resume to go on"
SCORED = "what is scored is kept; run the same command with --resume to go on"
AGAIN = "what is finished is kept; run the same command again to go on"
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


def stop_on_signals() -> None:
    """Raise Stopped where a signal asks this process to end, but for those that its parent had ignored (nohup)."""
    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def _stop(number: int, frame: Any) -> None:  # noqa: ARG001
    for each in _SIGNALS:  # what is unfinished is removed now; a second Ctrl-C ends that, too
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)
    raise Stopped(number)


@contextmanager
def going_on(how: str, kept: Path | None) -> Iterator[None]:
    """Say how to go on after a signal in the block, where what is kept for that is there by then."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if kept is not None and kept.exists():
            stop.add_note(how)
        raise


def told(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Return in one sentence that, and how, a signal ended this, and the exit code."""
    number = stop.number if isinstance(stop, Stopped) else int(signal.SIGINT)
    notes = getattr(stop, "__notes__", None) or ["nothing is kept of it; run the same command again"]
    return f"stopped by {signal.Signals(number).name}: {notes[0]}", 128 + number


@contextmanager
def showing_results() -> Iterator[None]:
    """Raise an OutputError where stdout takes no more; other failures to write name a file and are left alone."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # lest Python tries once more when it ends
        raise OutputError(f"cannot write to the standard output: {error.strerror}") from error
