"""What the command line shows, results on stdout and everything else on stderr, and how it ends from outside."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shlex
import signal
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from iqa_armor.errors import OutputError, Stopped

if TYPE_CHECKING:
    from iqa_armor.pipeline.forecast import Forecast

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
JSON: ContextVar[bool] = ContextVar("JSON", default=False)  # whether --json was given
COMMAND: ContextVar[tuple[str, ...]] = ContextVar("COMMAND", default=())  # words of the one that is running
# Seconds between lines on work in progress where there is no terminal; none at all with --quiet.
MINUTE, QUIET, LONG = 60.0, math.inf, 86400.0  # within LONG a step tells the time left
BEAT: ContextVar[float] = ContextVar("BEAT", default=MINUTE)
SCALE_NOTE = "training images score {0.low:.4g} to {0.high:.4g}"  # of a `ScoreScale`
RESUME = "the state after the last epoch is kept; run the same command with --resume to go on"
SCORED = "what is scored is kept; run the same command with --resume to go on"
AGAIN = "what is finished is kept; run the same command again to go on"
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


class _Screen(Console):
    """A console on which names of files and other texts of strangers do not command the terminal."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for part in super().render(renderable, options):
            is_text = part.control is None and _CONTROLS.search(part.text)
            yield part._replace(text=_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", part.text)) if is_text else part

    def on_broken_pipe(self) -> None:
        raise  # as of `| head`: typer ends without a word, where rich would call exit()


stdout = _Screen(highlight=False, emoji=False)
# Of the processes that a launcher starts, the first one speaks.
stderr = _Screen(stderr=True, highlight=False, emoji=False, quiet=os.environ.get("RANK", "").strip("0").isdecimal())


class _ToConsole(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), to=stderr)


def show_messages() -> None:
    logger = logging.getLogger("iqa_armor")
    logger.handlers = [_ToConsole()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    BEAT.set(MINUTE)
    JSON.set(False)


def show_if_json(value: dict[str, Any]) -> bool:
    """Write one JSON object to stdout where --json asks for it, and return whether it does."""
    if JSON.get():
        show_json(value)
    return JSON.get()


def show_json(value: dict[str, Any]) -> None:
    """Write one JSON object to stdout; NaN and infinity become null, as JSON has neither."""
    stdout.file.write(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")
    stdout.file.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class Bars:
    """Progress of several tasks: bars in a terminal; elsewhere a line at the start, every minute and at the end."""

    def __init__(self, bars: Progress | None) -> None:
        self.bars = bars
        self.started: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.tasks: dict[str, Any] = {}
        self.details: dict[str, str] = {}

    def __call__(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Note that `done` of `total` steps of `task` are finished; of a total that is not known, 0."""
        if BEAT.get() == QUIET:
            return
        if detail and self.details.get(task) != detail:
            self.details[task] = detail
            say(f"{task}: {detail}", to=stderr)
        if self.bars is None:
            self._line(task, done, total)
            return
        if task not in self.tasks or (done <= 1 and self.bars.tasks[self.tasks[task]].finished):
            self.tasks[task] = self.bars.add_task(task, total=total or None)
        self.bars.update(self.tasks[task], completed=done, total=total or None)

    def _line(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if task in self.started and now - self.told[task] < BEAT.get() and done != total:
            return
        since, self.told[task] = self.started.setdefault(task, now), now
        left = f", about {span((now - since) / done * (total - done))} left" if now > since and done else ""
        text = f"{done} of {total}{left}" if total else f"{done} so far"
        if done == total:
            del self.started[task]  # it may be done once more
            text = "" if task in self.details else f"{total} done"
        if text:
            say(f"{task}: {text}", to=stderr)


@contextmanager
def progress() -> Iterator[Bars]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Progress(
        *columns, TimeRemainingColumn(elapsed_when_finished=True), console=stderr, speed_estimate_period=LONG
    )
    with shown if stderr.is_terminal and BEAT.get() != QUIET else nullcontext() as bars:
        yield Bars(bars)


def say(*lines: str, to: Console = stdout) -> None:
    for line in lines:
        to.print(Text(line), soft_wrap=not to.is_terminal)


def show_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None, caption: str | None = None
) -> None:
    table = Table(title=title, caption=caption)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="ellipsis" if number else "fold")
    for row in rows:
        table.add_row(*map(Text, row))
    stdout.print(table)


def show_forecasts(found: Sequence[Forecast], **facts: Any) -> None:
    """Show what a job would take, and that nothing was done; `facts` are for JSON."""
    total = sum(each.seconds for each in found)
    if show_if_json({"dry_run": True, "seconds": total, "forecast": [asdict(each) for each in found], **facts}):
        return
    for each in found:
        height, width = each.size
        memory = "" if each.memory is None else f", {each.memory / 2**30:.2f} GiB of memory so far"
        cost = f"{each.flops / 1e9:.3g} G operations and {1000 * each.call_seconds:.3g} ms per image"
        size = f"{height}x{width}, {each.images} images"
        say(f"{each.name}: {each.parameters / 1e6:.2f} M parameters, {cost} of {size}{memory}")
    say(f"expected time: {span(total)}, but for reading images")
    say("dry run: nothing was done or written", to=stderr)


def span(seconds: float) -> str:
    """Return a time in words, such as "12 s", "3 min" or "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say_next(*words: object, to: Console = stdout, program: str = "iqa-armor") -> None:
    """Write the command that is useful next, as a shell reads it, but for --json."""
    if not JSON.get():
        say(in_shell("next: ", [program, *map(str, words)], to), to=to)


def in_shell(lead: str, words: Sequence[str], to: Console = stdout) -> str:
    """Return a command as a shell reads it; in a terminal lines that are too long are joined by backslashes."""
    text = lead + " ".join(shlex.quote(word).replace(" ", "\0") for word in words)
    width = to.width - 2 if to.is_terminal else 2**20
    lines = textwrap.wrap(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines).replace("\0", " ")


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
    number = stop.args[0] if isinstance(stop, Stopped) else int(signal.SIGINT)
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
