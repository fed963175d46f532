"""The long run: `python tests/fuzz/run.py COUNT [READER …]` damages COUNT files of each reader and says what happened.

What escapes, hangs (20 s), takes too much memory, writes elsewhere or runs is kept in `tests/fuzz/corpus`.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("IQA_ARMOR_MAX_MEMORY", str(2**30))

from readers import READERS, Fuzzed, is_usable  # noqa: E402

SECONDS = 20
MOST_GROWTH = 2**30 * 3 // 2  # of the largest resident set, beside libraries


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Hang(BaseException):
    pass


def _hang(_: int, __: FrameType | None) -> None:
    raise Hang


def fuzz(name: str, count: int, start: int) -> Counter[str]:  # noqa: C901
    """Return how reading `count` damaged files ended."""
    found: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    empty = folder / "here"
    empty.mkdir()
    fuzzed = Fuzzed(name, folder)
    os.chdir(empty)
    signal.signal(signal.SIGALRM, _hang)
    whole = folder / f"whole{fuzzed.files[0][0]}"
    whole.write_bytes(fuzzed.files[0][1])
    fuzzed.read(whole)  # what is imported takes no part of the time
    for seed in range(start, start + count):
        path, before = fuzzed.damaged(seed), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        content = path.read_bytes()
        signal.alarm(SECONDS)
        try:
            end = fuzzed.read(path)
        except Hang:
            end = "hung"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            end = f"escaped {type(error).__name__}"
            if found[end] < 3:
                traceback.print_exc(limit=-4)
        finally:
            signal.alarm(0)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if grown > MOST_GROWTH:
            end = f"hungry ({grown >> 20} MiB)"
        if any(empty.iterdir()):
            end = "wrote or ran"
            for left in empty.iterdir():
                left.unlink()
        found[end.split(" (")[0]] += 1
        if end not in ("read", "refused"):
            say(f"{name} {seed}: {end}")
            kept = HERE / "corpus" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}{path.suffix}"
            if len(content) < 200_000 and found[end] <= 3:
                kept.write_bytes(content)
    os.chdir("/")
    shutil.rmtree(folder, ignore_errors=True)
    return found


def main() -> None:
    count, *names = sys.argv[1:] or ["20000"]
    start = int(os.environ.get("FUZZ_START", "1000000"))
    bad = 0
    for name in names or READERS:
        if not is_usable(READERS[name]):
            continue
        began = time.monotonic()
        found = fuzz(name, int(int(count) * READERS[name].share), start)
        bad += sum(number for end, number in found.items() if end not in ("read", "refused"))
        say(f"{name}: {dict(found.most_common())} in {time.monotonic() - began:.0f} s")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
