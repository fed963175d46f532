"""Failures a user can cause and mend, each with the exit code of the command line.

Whatever a library raises on a stranger's file becomes one of them in `reading`, what others' code raises in `calling`.
"""

import errno
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What torch and the code of a network raise where a graph, a size or a type does not fit: every kind of mistake that a
# network may hold, none of those that a machine makes (memory, interrupts, files).
_USUAL = (TypeError, ValueError, RuntimeError, AttributeError, AssertionError)
NETWORK_FAILURES = (*_USUAL, LookupError, ArithmeticError, NameError, ImportError)
Says = Callable[[BaseException], str]  # what a message says of an exception


class ArmorError(Exception):
    """Base of every expected failure; the message says what is wrong and what to do."""

    exit_code = 1

    def __init_subclass__(cls, *, exit_code: int | None = None) -> None:
        cls.exit_code = exit_code or cls.exit_code


class Stopped(KeyboardInterrupt):
    """A signal, its argument, asked this process to end; the notes (PEP 678) say how to go on."""


class ModelLoadError(ArmorError, exit_code=3):
    """A model file or architecture that cannot be opened as asked."""


class SurgeryError(ArmorError, exit_code=4):
    """A model that cannot be traced, cut or pruned."""


class DataError(ArmorError, exit_code=5):
    """A dataset that is missing, incomplete or inconsistent."""


class RecipeError(ArmorError, exit_code=6):
    """Settings of a hardening that contradict each other or their allowed ranges."""


class RequirementError(ArmorError, exit_code=10):
    """A `--require` expression that does not hold."""


class UsageError(ArmorError, exit_code=2):
    """Words of a command that cannot be understood, such as an unknown attack or requirement path."""


class SettingError(UsageError, ValueError):
    """A value that an object's settings do not allow."""


class OutputError(ArmorError):
    """A file or folder that cannot be written."""


def first_line(error: BaseException, length: int = 200) -> str:
    """Return the first line of an error's text that says something, or its kind."""
    # A text may hold anything, even what no terminal can show.
    lines = map(str.strip, str(error).encode(errors="replace").decode().splitlines())
    return next(filter(None, lines), type(error).__name__)[:length]


def reason_of(error: BaseException) -> str:
    """Return the same, or in our words that there was no memory left, which libraries say in words of their own."""
    is_hungry = isinstance(error, MemoryError) or re.search("allocate memory|bad_?alloc", str(error), re.IGNORECASE)
    return "it takes more memory than --max-memory allows" if is_hungry else first_line(error)


@contextmanager
def reading(
    path: Path | str, error: type[ArmorError], *, says: str = "is damaged", advice: str = "name another file"
) -> Iterator[None]:
    """Raise `error` in place of everything that the block may raise, but for errors of ours and interrupts.

    Which exceptions a parser of damaged bytes raises is documented nowhere. The message is "PATH says: reason; advice".
    """
    try:
        yield
    except ArmorError:
        raise
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror or first_line(failure)}; {advice}") from failure
    except BaseException as failure:
        # A panic of a Rust library is no Exception.
        if not isinstance(failure, Exception) and type(failure).__name__ != "PanicException":
            raise
        raise error(f"{path} {says}: {reason_of(failure)}; {advice}") from failure


@contextmanager
def failing(
    says: str,
    failures: tuple[type[BaseException], ...] = NETWORK_FAILURES,
    *,
    error: type[ArmorError] = ArmorError,
    advice: str = "",
) -> Iterator[None]:
    """Raise `error` in place of these failures of the block, by default those of a network: "SAYS: reason; advice"."""
    try:
        yield
    except failures as failure:
        raise error("; ".join(filter(None, (f"{says}: {first_line(failure)}", advice)))) from failure


@contextmanager
def calling(what: str, error: type[ArmorError] = ArmorError, *, says: Says | str = "failed") -> Iterator[None]:
    """Raise `error` in place of what the code of others, called in the block, may raise: exceptions of its own, too.

    The message is "WHAT SAYS: kind: reason", or "WHAT", a space and what `says` makes of the exception; exit() is told
    as such. Errors of ours, interrupts and a lack of memory pass.
    """
    try:
        yield
    except (ArmorError, MemoryError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as failure:  # the other place that catches all
        if type(failure).__name__ == "OutOfMemoryError":  # torch's
            raise
        told = f"{says}: {type(failure).__name__}: {first_line(failure)}" if isinstance(says, str) else says(failure)
        if isinstance(failure, SystemExit):
            told = f"ended the process by exit({failure}); have it return or raise"
        raise error(f"{what} {told}") from failure


def contents(path: Path, most: int = 2**26) -> bytes:
    """Return the bytes of a file; an OSError refuses more than `most`, and pipes and devices, which need not end."""
    found = path.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size >> 20} MiB, and more than {most >> 20} are not read")
    with path.open("rb") as file:
        return file.read(found.st_size)


def is_file(path: Path) -> bool:
    """Return whether a file is there; a name that no file can have is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def file_version(path: Path) -> tuple[str, int, int, int]:
    """Return what changes where a file's content does: its name, size and times; nothing can set the last one back."""
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def expanded(location: str | Path) -> Path:
    """Return a path with its `~` replaced, or as it is where there is no such user."""
    try:
        return Path(location).expanduser()
    except RuntimeError:
        return Path(location)
