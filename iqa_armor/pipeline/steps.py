"""Steps of a pipeline: each is run where its command, its inputs or its outputs are not what they were."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from iqa_armor import __version__
from iqa_armor.data.images import EXTENSIONS
from iqa_armor.errors import DataError, RecipeError, contents, file_version, reading
from iqa_armor.files import require_writable, write_whole
from iqa_armor.pipeline.card import sha256_of

SCHEMA = "iqa-armor/run/1"


@dataclass(frozen=True)
class Step:
    """One command of a pipeline: its words, without the program's, and which of them name what it writes."""

    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """What became of a step, and the exit code of its command."""

    name: str
    command: str
    status: Literal["done", "unchanged", "failed", "would run"]
    seconds: float
    exit_code: int = 0


class Pipeline:
    """Steps that are run in a folder, in their order; a file of the folder keeps what they followed from."""

    def __init__(self, steps: Sequence[Step], *, folder: Path, state: Path) -> None:
        self.steps, self.folder, self.state = steps, folder, state
        self.kept = _read(state)

    def run(self, *, force: bool = False, dry: bool = False, quiet: bool = False) -> Iterator[StepResult]:
        """Run what is not done yet, up to the first step that fails; yield each result.

        With `force` steps run although nothing has changed; a `dry` run says which would, as far as that can be told
        before those in front of them; `quiet` sends what commands show to stderr.
        """
        if not dry:
            require_writable(self.state)
        for step in self.steps:
            command, known = shlex.join(step.words), self.kept.get(step.name, {})
            if not force and known.get("from") == self.fingerprint(step) and known.get("to") == self._made(step):
                yield StepResult(step.name, command, "unchanged", known["seconds"])
                continue
            if dry:
                yield StepResult(step.name, command, "would run", known.get("seconds", 0.0))
                continue
            origin, started = self.fingerprint(step), time.perf_counter()
            code = self._call(step, quiet=quiet)
            seconds = time.perf_counter() - started
            if code == 0:
                self.kept[step.name] = {"from": origin, "to": self._made(step), "seconds": seconds}
                write_whole(self.state, json.dumps({"schema": SCHEMA, "steps": self.kept}, indent=1) + "\n")
            yield StepResult(step.name, command, "failed" if code else "done", seconds, code)
            if code:
                return

    def fingerprint(self, step: Step) -> str:
        """Return a digest of a step's words, of the files that they name and of the version of this package."""
        digest = hashlib.sha256(json.dumps([__version__, step.words]).encode())
        for word in (word for word in step.words if word not in step.outputs):
            for part in self._named(word):
                digest.update(f"{part} {self._content(part)}\n".encode())
        return digest.hexdigest()[:16]

    def _named(self, word: str) -> list[str]:
        """Return what a word may name: a file, or the place behind or before a colon."""
        parts = [word, word.partition(":")[2], word.partition(":")[0], *re.findall(r"=([^,+=]+)", word)]
        return [part for part in dict.fromkeys(parts) if part and (self.folder / part).exists()]

    def _content(self, name: str) -> str:
        """Return what tells the content of a file, with the images beside a table; those of a folder."""
        path = self.folder / name
        if path.is_file() and path.suffix.lower() not in (".csv", ".tsv"):
            return _digest(path)
        folder = path if path.is_dir() else path.parent
        kinds = {*EXTENSIONS, ".csv", ".mat", ".txt"}
        images = (each for each in folder.rglob("*") if each.suffix.lower() in kinds and each != path)
        with reading(folder, DataError, advice="run again"):
            found = sorted(map(file_version, images))
        told = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
        return told if path.is_dir() else _digest(path) + told

    def _made(self, step: Step) -> dict[str, str]:
        paths = {name: self.folder / name for name in step.outputs}
        return {name: _digest(path) if path.is_file() else "folder" for name, path in paths.items() if path.exists()}

    def _call(self, step: Step, *, quiet: bool) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "iqa_armor", *step.words], cwd=self.folder, stdout=2 if quiet else None
        )
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code  # as shells say that a signal ended it
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _digest(path: Path) -> str:
    return sha256_of(path, DataError, advice="run again")[:16]


def _read(state: Path) -> dict[str, Any]:
    if not state.is_file():
        return {}
    with reading(state, RecipeError, advice="remove it, and all steps are run again"):
        kept = json.loads(contents(state))
        return dict(kept["steps"]) if kept["schema"] == SCHEMA else {}
