"""Commands in processes of their own that need not import anything: copies of this one, with their own signals."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import torch

from iqa_armor.cli import main

SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}


class Forked:
    """A process of the command line, with what it says on both streams."""

    def __init__(
        self,
        words: list[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Start `iqa-armor` with these words, in a folder, with more variables, after something else."""
        ends = os.pipe(), os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.chdir(folder or Path.cwd())
            os.environ.update(environment or {})
            _become(["iqa-armor", *words], [writing for _, writing in ends], before)
        for _, writing in ends:
            os.close(writing)
        self.stdout, self.stderr = (os.fdopen(reading, encoding="utf-8") for reading, _ in ends)
        self.code: int | None = None

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        if self.code is None:
            self.send_signal(signal.SIGKILL)
            self.wait()
        self.stdout.close()
        self.stderr.close()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code, that of a signal as a negative number."""
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


def _become(words: list[str], ends: list[int], before: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        for stream, end in enumerate(ends, start=1):
            os.dup2(end, stream)
        sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))  # noqa: SIM115
        sys.argv = words
        for number, handler in SIGNALS.items():
            signal.signal(number, handler)
        torch.set_num_threads(1)  # other threads are not copied
        before()
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finished(words: list[str], **settings: object) -> tuple[int, str, str]:
    """Return the exit code of a command, and what it has written to each stream, which is not much."""
    with Forked(words, **settings) as process:  # type: ignore[arg-type]
        said = process.stderr.read()
        shown = process.stdout.read()
        return process.wait(), shown, said
