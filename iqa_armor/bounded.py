"""Native code that reads or runs what strangers wrote, in a process of its own: bounded in time and in memory.

A crash, an endless loop and a hunger for memory end that process alone, and become an error here. Answers are JSON and
plain bytes: whatever takes the process over can give wrong numbers, not run code in this one.
"""

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import IO, Any

from iqa_armor import errors
from iqa_armor.errors import ArmorError, reason_of
from iqa_armor.machine import memory_limit

SECONDS = 20.0  # of one call, where the caller knows no better
MOST_BYTES = 2**34  # of one message
_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import iqa_armor.bounded as b; b.serve(sys.argv[2])"
_SIZES = struct.Struct("<QQ")


class EndedError(Exception):
    """How a call went wrong: what it raised, or how its process ended."""


class Worker:
    """A process that answers calls one after the other; it starts with the first, and again after it has died."""

    def __init__(self, *, bounds_memory: bool = True) -> None:
        self.bounds_memory = bounds_memory
        self._process: subprocess.Popen[bytes] | None = None
        self._imported: set[str] = set()
        self._owner, self._lock = os.getpid(), threading.Lock()

    def call(self, function: str, *arguments: Any, payload: bytes = b"", seconds: float = SECONDS) -> tuple[Any, bytes]:
        """Return what `module:function` gives for JSON values and bytes; raises its ArmorError, else EndedError."""
        with self._lock:
            try:
                said, content = self._asked(function, arguments, payload, seconds)
            except BaseException:  # an interrupt between question and answer
                self.close()
                raise
        if "error" in said:
            kind: Any = getattr(errors, str(said["kind"]), None)
            is_ours = isinstance(kind, type) and issubclass(kind, ArmorError)
            raise (kind if is_ours else EndedError)(said["error"])
        return said["value"], content

    def _asked(self, function: str, arguments: tuple[Any, ...], payload: bytes, seconds: float) -> tuple[Any, bytes]:
        process, expired = self._running(function.partition(":")[0]), threading.Event()
        timer = threading.Timer(seconds, _stop, (process, expired))
        timer.start()
        try:
            answer = _exchange(process, {"call": function, "arguments": arguments, "seconds": seconds}, payload)
        finally:
            timer.cancel()
        if answer is None:
            raise EndedError(f"it takes longer than {seconds:.0f} s" if expired.is_set() else _death(process))
        return answer

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):
                    pipe.close()
            process.wait()

    def _running(self, module: str) -> subprocess.Popen[bytes]:
        """Return the process once it has imported a module of ours, which takes no part of the time for a call."""
        if self._owner != os.getpid():  # forked: the other end belongs to somebody else
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            limit, pipe = str(memory_limit()) if self.bounds_memory else "", subprocess.PIPE
            command = [sys.executable, "-c", _CODE, json.dumps(sys.path), limit]
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
            self._imported = set()
        if module not in self._imported:
            _exchange(self._process, {"call": f"{module}:", "arguments": [], "seconds": 0}, b"")
            self._imported.add(module)
        return self._process


@cache
def worker(device: str = "cpu") -> Worker:
    """Return the worker of this process for a kind of device; CUDA maps more memory than it takes, so has no bound."""
    made = Worker(bounds_memory=device == "cpu")
    atexit.register(made.close)
    return made


def serve(memory: str) -> None:
    """Answer calls on the standard input until it ends; what is called writes nothing, neither to files."""
    answers, requests = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides
    tempfile.gettempdir()  # tries to write a file, once; torch asks for it where it imports its compiler
    _limit(int(memory or -1))
    while (received := _receive(requests)) is not None:
        request, payload = received
        if hasattr(signal, "alarm"):  # ends this process should the other have died
            signal.alarm(int(request["seconds"]) + 5 if request["seconds"] else 0)
        _send(answers, *_answer(request, payload))


def _answer(request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        module, _, name = request["call"].partition(":")
        found = import_module(module)
        value, content = getattr(found, name)(*request["arguments"], payload) if name else (None, b"")
    except ArmorError as error:
        return {"kind": type(error).__name__, "error": str(error)}, b""
    except BaseException as error:  # whatever it is, it is told to the process that asks
        return {"kind": "", "error": reason_of(error)}, b""
    return {"value": value}, content


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _exchange(process: subprocess.Popen[bytes], request: dict[str, Any], payload: bytes) -> tuple[Any, bytes] | None:
    """Return an answer and its bytes, None where the process has died."""
    if process.stdin is None or process.stdout is None:
        return None
    try:
        _send(process.stdin, request, payload)
        return _receive(process.stdout)
    except (OSError, ValueError, RecursionError, MemoryError):
        return None


def _send(file: IO[bytes], value: Any, payload: bytes) -> None:
    text = json.dumps(value).encode()
    file.writelines((_SIZES.pack(len(text), len(payload)), text, payload))
    file.flush()


def _receive(file: IO[bytes]) -> tuple[Any, bytes] | None:
    sizes = file.read(_SIZES.size)
    if len(sizes) < _SIZES.size or sum(_SIZES.unpack(sizes)) > MOST_BYTES:
        return None
    text, payload = (file.read(size) for size in _SIZES.unpack(sizes))
    return json.loads(text), payload


def _stop(process: subprocess.Popen[bytes], expired: threading.Event) -> None:
    expired.set()
    process.kill()


def _death(process: subprocess.Popen[bytes]) -> str:
    told = f"code {process.wait()}"
    with suppress(ValueError):
        told = signal.Signals(-process.returncode).name
    return f"it ended the process that read it ({told})"
