"""What the process of `iqa_armor.bounded` is made to do in its tests."""

import os
import signal
import sys
import time
from typing import Any

from iqa_armor.errors import ModelLoadError


def echo(value: Any, content: bytes) -> tuple[Any, bytes]:
    sys.stdout.write("said on standard output\n")
    return value, content[::-1]


def process(_: bytes) -> tuple[int, bytes]:
    return os.getpid(), b""


def crash(name: str, _: bytes) -> tuple[None, bytes]:
    os.kill(os.getpid(), getattr(signal, name))
    return None, b""


def leave(_: bytes) -> tuple[None, bytes]:
    os._exit(7)


def loop(_: bytes) -> tuple[None, bytes]:
    while True:
        time.sleep(1)


def late(_: bytes) -> tuple[str, bytes]:
    time.sleep(1)
    return "late", b""


def hunger(_: bytes) -> tuple[int, bytes]:
    return len(bytearray(2**40)), b""


def recurse(_: bytes) -> tuple[None, bytes]:
    return recurse(_)


def write(path: str, _: bytes) -> tuple[None, bytes]:
    with open(path, "w") as file:  # noqa: PTH123
        file.write("x" * 10_000)
    return None, b""


def refuse(_: bytes) -> tuple[None, bytes]:
    raise ModelLoadError("in our words")
