"""The long run: `python tests/fuzz/run.py COUNT [READER …]` damages COUNT files of each reader and says what happened.

What escapes, hangs (20 s), takes too much memory, writes, starts a program or crashes is kept in `tests/fuzz/corpus`.
Each reader runs in a process of its own. With FUZZ_LOG=FOLDER what is done is kept there, and the next run goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("IQA_ARMOR_MAX_MEMORY", str(2**30))

SECONDS = 20
MOST_GROWTH = 2**30 * 3 // 2  # of the largest resident set, beside libraries
MOST_DATA = 2**33  # of this process, lest the machine ends it, or another one
START = int(os.environ.get("FUZZ_START", "1000000"))
CHANGES = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir")
GOOD = ("read", "refused")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Hang(KeyboardInterrupt):  # which passes where what users' code raises is told
    pass


def _hang(_: int, __: FrameType | None) -> None:
    raise Hang


@dataclass
class Done:
    """What became of a reader's files so far; a number of a file is noted before it is read."""

    path: Path
    count: int = 0
    plain: int = 0  # files that their mutator could not change, so that bytes were
    seconds: float = 0.0
    found: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.path.is_file():
            kept = json.loads(self.path.read_text())
            self.count, self.plain, self.seconds = kept["count"], kept["plain"], kept["seconds"]
            self.found = Counter(kept["found"])

    def write(self) -> None:
        kept = {"count": self.count, "plain": self.plain, "seconds": self.seconds, "found": self.found}
        changed = self.path.with_suffix(".new")
        changed.write_text(json.dumps(kept))
        changed.replace(self.path)

    def __str__(self) -> str:
        rate = self.count / self.seconds if self.seconds else 0.0
        return f"{self.count} files, {self.plain} of them by bytes alone, {rate:.1f} a second: {dict(self.found)}"


class Watch:
    """Notes what a reader writes or starts, but for its folder and the process that is bounded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.is_on = str(folder), [], False  # type: ignore[var-annotated]
        sys.addaudithook(self)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        # A number is what was opened before: the pipe to the process that is bounded.
        if event == "open" and isinstance(given[2], int) and not isinstance(given[0], int):
            writes = given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not str(given[0]).startswith((self.folder, "/dev/null")):
                self.seen.append(f"open {given[0]}")
        elif event == "subprocess.Popen" and "iqa_armor.bounded" not in str(given[1]):
            self.seen.append(f"{event} {given[1]}")
        elif event in CHANGES and not str(given[0]).startswith(self.folder):
            self.seen.append(f"{event} {given[0]}")


def keep(name: str, seed: int, end: str, path: Path, count: int) -> None:
    """Say what went wrong, and keep the file among those that every test run reads."""
    say(f"{name} {seed}: {end}")
    content = path.read_bytes()
    if len(content) < 200_000 and count <= 3:
        kept = HERE / "corpus" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}{path.suffix}"
        kept.write_bytes(content)


def fuzz(name: str, count: int, log: Path) -> None:
    """Read the damaged files of a reader from where its log ends, up to `count`."""
    from readers import Fuzzed

    done, folder = Done(log / f"{name}.json"), Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    (log / f"{name}.now").unlink(missing_ok=True)  # of a run before, which is not to blame for the end of this one
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, MOST_DATA))
    empty = folder / "here"
    empty.mkdir()
    fuzzed = Fuzzed(name, folder)
    os.chdir(empty)
    signal.signal(signal.SIGALRM, _hang)
    whole = folder / f"whole{fuzzed.files[0][0]}"
    whole.write_bytes(fuzzed.files[0][1])
    fuzzed.read(whole)  # what is imported takes no part of the time
    watch, began = Watch(folder), time.monotonic()
    while done.count < count:
        seed = START + done.count
        path, before = fuzzed.damaged(seed), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (log / f"{name}.now").write_text(f"{seed} {path}")
        end = _ended(fuzzed, path, watch, done)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if grown > MOST_GROWTH:
            end = f"hungry ({grown >> 20} MiB)"
        if any(empty.iterdir()) or watch.seen:
            say(f"  {watch.seen} {[left.name for left in empty.iterdir()]}")
            end = "wrote or ran"
            watch.seen.clear()
            shutil.rmtree(empty)
            empty.mkdir()
            os.chdir(empty)
        done.found[end.split(" (")[0]] += 1
        done.count += 1
        if end not in GOOD:
            keep(name, seed, end, path, done.found[end.split(" (")[0]])
        if done.count % 100 == 0 or done.count == count or end not in GOOD:
            done.plain += fuzzed.plain
            done.seconds += time.monotonic() - began
            fuzzed.plain, began = 0, time.monotonic()
            done.write()
    os.chdir("/")
    shutil.rmtree(folder, ignore_errors=True)


def _ended(fuzzed: Any, path: Path, watch: Watch, done: Done) -> str:
    signal.alarm(SECONDS)
    watch.is_on = True
    try:
        end: str = fuzzed.read(path)
    except Hang:
        end = "hung"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        end = f"escaped {type(error).__name__}"
        if done.found[end] < 3:
            traceback.print_exc(limit=-6)
    finally:
        signal.alarm(0)
        watch.is_on = False
    return end


def supervised(name: str, count: int, log: Path) -> Done:
    """Run a reader in a process of its own; where that dies, note its file and go on behind it."""
    while True:
        ended = subprocess.run([sys.executable, __file__, "--one", name, str(count), str(log)], check=False)
        done = Done(log / f"{name}.json")
        if ended.returncode == 0:
            return done
        if ended.returncode > 0 or not (log / f"{name}.now").is_file():
            raise SystemExit(f"{name}: the run itself failed")
        seed, path = (log / f"{name}.now").read_text().split(" ", 1)
        done.count, end = int(seed) - START + 1, f"crashed {signal.Signals(-ended.returncode).name}"
        done.found[end] += 1
        keep(name, int(seed), end, Path(path), done.found[end])
        done.write()


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        return
    from readers import READERS, is_usable

    count, *names = sys.argv[1:] or ["20000"]
    log = Path(os.environ.get("FUZZ_LOG") or tempfile.mkdtemp(prefix="fuzz-log-"))
    log.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name in names or READERS:
        if not is_usable(READERS[name]):
            say(f"{name}: not run, {READERS[name].needs} is not installed")
            continue
        done = supervised(name, int(count), log)
        bad += sum(number for end, number in done.found.items() if end not in GOOD)
        say(f"{name}: {done}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
