"""What runs in a process of its own cannot take this one along."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iqa_armor.bounded import EndedError, Worker
from iqa_armor.errors import ArmorError, DataError, ModelLoadError, expanded, first_line, is_file, reading


@pytest.fixture(scope="module")
def helper() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def test_values_and_bytes_come_back(helper: Worker) -> None:
    value = {"a": [1, 2.5, None, "ü"], "b": float("inf")}
    assert helper.call("bounded_subject:echo", value, payload=b"abc" * 100_000) == (value, b"cba" * 100_000)


def test_one_process_answers_many_calls(helper: Worker) -> None:
    first, _ = helper.call("bounded_subject:process")
    assert first != os.getpid()
    assert helper.call("bounded_subject:process")[0] == first


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGFPE", "SIGKILL"])
def test_a_crash_is_an_error_and_the_next_call_works(helper: Worker, name: str) -> None:
    with pytest.raises(EndedError, match=rf"ended the process that read it \({name}\)"):
        helper.call("bounded_subject:crash", name)
    assert helper.call("bounded_subject:echo", 1) == (1, b"")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("leave", r"code 7"),
        ("hunger", "more memory than --max-memory allows"),
        ("recurse", "recursion"),
        ("missing", "has no attribute"),
    ],
)
def test_whatever_it_does_is_an_error(helper: Worker, what: str, said: str) -> None:
    with pytest.raises(EndedError, match=said):
        helper.call(f"bounded_subject:{what}")


def test_an_interrupted_call_does_not_answer_the_next(helper: Worker) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(_: int, __: object) -> None:
        raise Interrupt

    helper.call("bounded_subject:process")
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Interrupt):
            helper.call("bounded_subject:late")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert helper.call("bounded_subject:echo", 5) == (5, b"")


def test_time_is_bounded(helper: Worker) -> None:
    helper.call("bounded_subject:process")
    started = time.perf_counter()
    with pytest.raises(EndedError, match="longer than 1 s"):
        helper.call("bounded_subject:loop", seconds=1)
    assert time.perf_counter() - started < 10


def test_nothing_is_written(helper: Worker, tmp_path: Path) -> None:
    with pytest.raises(EndedError, match="too large"):
        helper.call("bounded_subject:write", str(tmp_path / "file"))
    assert not (tmp_path / "file").read_text()


def test_errors_of_ours_keep_their_kind(helper: Worker) -> None:
    with pytest.raises(ModelLoadError, match=r"^in our words$"):
        helper.call("bounded_subject:refuse")


class Panic(BaseException):
    pass


Panic.__name__ = "PanicException"


@pytest.mark.parametrize(
    "raised", [ValueError("a\nb"), RecursionError("deep"), MemoryError(), StopIteration(), Panic("rust")]
)
def test_whatever_a_reader_raises_becomes_ours(raised: BaseException) -> None:
    with (
        pytest.raises(DataError, match=r"^f\.x is odd: [^\n]+; mend it$"),
        reading("f.x", DataError, says="is odd", advice="mend it"),
    ):
        raise raised


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3), ArmorError("ours")])
def test_interrupts_and_our_errors_pass_a_reader(raised: BaseException) -> None:
    with pytest.raises(type(raised)), reading("f", DataError):
        raise raised


def test_odd_texts_and_paths() -> None:
    assert first_line(ValueError("\n \n  \ud800 said ")) == "? said"
    assert first_line(KeyError()) == "KeyError"
    assert not any(map(is_file, (Path("a" * 5000), Path("a\0b"), Path("/"))))
    assert expanded("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
