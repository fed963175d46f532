"""Write files whole or not at all: the one way in which everything in this package reaches the disk.

Unfinished files stand in a hidden folder beside their target. Its writer holds a lock on it, so that the next writer
of the same target can tell what a killed run left behind from what another process is writing right now.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO

from iqa_armor.errors import OutputError, UsageError

MARK = ".unfinished-"
CLAIM = ".claimed"


@contextmanager
def replacing(path: Path | str, *, beside: str = "") -> Iterator[Path]:
    """Give a name to write to, and make what stands there the file at `path` once the block has ended well.

    It has the suffix of `path` and a folder of its own, in which side files are dropped, but for one with the suffix
    `beside`, which appears first. If the block fails, all stays as it was. An OSError becomes an OutputError.
    """
    path = Path(path)
    with refusing(path), _unfinished(path.parent, prefix=f".{path.name}{MARK}") as folder:
        unfinished = folder / path.name
        yield unfinished
        for written in (*([unfinished.with_suffix(beside)] if beside else []), unfinished):
            _sync(written)
            written.replace(path.parent / written.name)
        _sync_folder(path.parent)


@contextmanager
def staging(output: Path | str) -> Iterator[Path]:
    """Give a folder for unfinished files; all of them appear in `output` together once the block has ended well.

    If the block fails, `output` is removed where it is new. Raises OutputError, also for an OSError of the block.
    """
    output = Path(output)
    is_new = not output.exists()
    with refusing(output):
        output.mkdir(parents=True, exist_ok=True)
        try:
            with _unfinished(output, prefix=MARK) as folder:
                yield folder
                for file in sorted(folder.iterdir()):
                    _sync(file)
                    file.replace(output / file.name)
                _sync_folder(output)
        finally:
            if is_new:
                with suppress(OSError):  # holds the finished files
                    output.rmdir()


def write_whole(path: Path | str, content: bytes | str) -> None:
    """Write bytes, or text in UTF-8, so that the file is never seen half-written; OutputError if it cannot be."""
    # File names need not be text; the bytes of one that stands in a text are kept.
    data = content.encode("utf-8", errors="surrogateescape") if isinstance(content, str) else content
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)


def require_writable(path: Path | str) -> None:
    """Refuse a file that could not be written, before any work is done; its folder is made.

    Raises UsageError if the path is a folder, a pipe or a device, OutputError if nothing can be made there.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a pipe or a device; name a file")
    _probe(path, path.parent, f".{path.name}{MARK}")


def discard(path: Path | None) -> None:
    """Remove a file that has served its purpose, if it is there and can be removed."""
    if path is not None:
        with suppress(OSError):
            path.unlink()


def cut_unfinished(path: Path, end: str = "\n") -> None:
    """Drop what follows the last whole line of a file that grows, where a process was killed while it wrote."""
    if path.exists():
        with path.open("r+b") as file:
            start = file.seek(max(0, file.seek(0, os.SEEK_END) - 2**24))
            last = file.read().rfind(end.encode())
            file.truncate(start + last + len(end) if last >= 0 else 0)


def _probe(path: Path, parent: Path, prefix: str) -> None:
    with refusing(path):
        parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(parent, prefix=prefix) as folder:
            (folder / "probe").write_bytes(b"\0" * 4096)


@contextmanager
def claiming(path: Path, *, overwrite: bool, is_folder: bool = False, files: Sequence[str] = ()) -> Iterator[None]:
    """Keep a name for what the block makes, from before the work until it stands there.

    Of two processes that claim one name, the second is refused at once. A folder is made, and removed again if it
    stays empty; `files` are those that are going to stand in it. Raises UsageError if one is there and not to be
    overwritten, or a folder in its place, OutputError if nothing can be written, or another process is about to.
    """
    if is_folder and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; name a folder")
    existing = [file for file in (path / name for name in files or ([] if is_folder else [""])) if file.is_file()]
    if existing and not overwrite:
        raise UsageError(f"{existing[0]} exists already; replace it with --overwrite, or name another place with -o")
    is_new = is_folder and not path.exists()
    lock = path / CLAIM if is_folder else path.with_name(f".{path.name}{CLAIM}")
    if is_folder:
        _probe(path, path, MARK)
    else:
        require_writable(path)
    with refusing(path):
        held = _held_alone(lock, path)
    try:
        yield
    finally:
        with held, suppress(OSError):  # the disk is read-only by now, or the folder holds what was made
            lock.unlink(missing_ok=True)
            if is_new:
                path.rmdir()


def _held_alone(name: Path, target: Path) -> IO[str]:
    """Return the opened lock file of a target; what a killed process left is not locked, and taken over."""
    if name.exists() and not name.is_file():
        raise OutputError(f"{name} is no file, so {target} cannot be claimed; remove it")
    while True:
        file = name.open("a", encoding="utf-8")
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise OutputError(f"another process is about to write {target}; wait, or name another place") from error
        except (ImportError, OSError):  # a platform or file system without locks
            return file
        if name.exists() and os.path.samestat(os.fstat(file.fileno()), name.stat()):
            return file
        file.close()  # its holder removed it in between


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Raise an OutputError in place of an OSError of the block, which writes a file."""
    try:
        yield
    except OSError as error:
        named = Path(*(part for part in path.parts if MARK not in part))
        raise OutputError(f"cannot write {named}: {error.strerror or error}; name another place") from error


def remove_abandoned(parent: Path, names: str = f".*{MARK[1:]}*") -> None:
    """Remove what dead writers left in a folder, by default of any target."""
    for leftover in parent.glob(names):
        # Gone already, or no folder; the lock is held meanwhile, lest a new writer takes it over.
        with suppress(OSError), _locked(leftover) as held:
            if held or os.name == "nt":
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _unfinished(parent: Path, *, prefix: str) -> Iterator[Path]:
    """Give a locked folder in `parent`, removed in the end, after what dead writers of the same prefix left."""
    remove_abandoned(parent, f"{escape(prefix)}*")
    with ExitStack() as locks:
        while True:  # once more where another writer took it for abandoned in between
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            with suppress(FileNotFoundError):
                locks.enter_context(_locked(folder, waits=True))
                if folder.exists():
                    break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, waits: bool = False) -> Iterator[bool]:
    """Lock a folder for its writer; False where the platform has no such locks, or somebody else holds this one."""
    try:
        import fcntl
    except ImportError:  # Windows refuses to remove what is open, which serves as well
        yield False
        return
    descriptor, is_held = os.open(folder, os.O_RDONLY), False
    try:
        with suppress(OSError):  # held, or a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            is_held = True
        yield is_held
    finally:
        os.close(descriptor)


def _sync(file: Path) -> None:
    # A handle that may write: Windows refuses to sync others.
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last, where the platform lets folders be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
