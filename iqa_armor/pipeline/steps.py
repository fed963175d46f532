"""Steps of a pipeline: each is run where its command, its inputs or its outputs are not what they were."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from glob import escape, glob
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from iqa_armor import __version__
from iqa_armor.data.images import EXTENSIONS
from iqa_armor.data.table import read_labels
from iqa_armor.errors import DataError, ModelLoadError, RecipeError, RequirementError, contents, file_version, reading
from iqa_armor.files import require_writable, write_whole
from iqa_armor.pipeline.card import sha256_of
from iqa_armor.pipeline.hub import fetched, local_target, on_hub

SCHEMA = "iqa-armor/run/1"
_TABLES = {".csv", ".mat", ".tsv", ".txt", ".xlsx"}  # what names images that lie beside it
_REMEMBERED = 2**16  # digests of files


@dataclass(frozen=True)
class Step:
    """One command of a pipeline: its words, without the program's, those that name outputs, and what else it reads."""

    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    resumes: bool = False  # whether it goes on with --resume where it was stopped
    reads: tuple[str, ...] = ()  # files and folders that no word names


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
        self.kept: dict[str, Any] = {}
        if state.is_file():
            with reading(state, RecipeError, advice="remove it, and all steps are run again"):
                kept = json.loads(contents(state))
                self.kept = dict(kept["steps"]) if kept["schema"] == SCHEMA else {}

    def run(self, *, force: bool = False, dry: bool = False, quiet: bool = False) -> Iterator[StepResult]:
        """Run what is not done yet, up to the first step that fails; yield each result.

        With `force` steps run although nothing has changed; a `dry` run says which would, and which would since those
        in front of them do; `quiet` sends what commands show to stderr. What was stopped goes on where it can. A
        requirement that did not hold is not tried again before something has changed.
        """
        if not dry:
            require_writable(self.state)
        anew = set[str]()  # what a dry run would make
        for step in self.steps:
            origin = self.fingerprint(step)
            is_stale = force or anew.intersection(chain(*map(self._named, step.words)))
            result = None if is_stale else self._unchanged(step, origin)
            if result is None and dry:
                anew.update(step.outputs)
                seconds = self.kept.get(step.name, {}).get("seconds", 0.0)
                result = StepResult(step.name, shlex.join(step.words), "would run", seconds)
            result = result or self._done(step, origin, force=force, quiet=quiet)
            yield result
            if result.exit_code:
                return

    def _unchanged(self, step: Step, origin: str) -> StepResult | None:
        known = self.kept.get(step.name, {})
        if known.get("from") != origin or known.get("to") != self._made(step):
            return None
        return StepResult(step.name, shlex.join(step.words), "unchanged", known["seconds"], known.get("exit_code", 0))

    def _done(self, step: Step, origin: str, *, force: bool, quiet: bool) -> StepResult:
        """Run a step, from where it was stopped if it was, and keep what it followed from."""
        known = self.kept.get(step.name, {})
        goes_on = step.resumes and not force and known.get("begun") == origin
        self._keep(step, {**known, "begun": origin})
        started = time.perf_counter()
        code = self._call(replace(step, words=(*step.words, "--resume")) if goes_on else step, quiet=quiet)
        if goes_on and code == RecipeError.exit_code:  # what is kept there is another run's
            code = self._call(step, quiet=quiet)
        seconds = time.perf_counter() - started
        if code in (0, RequirementError.exit_code):
            self._keep(step, {"from": origin, "to": self._made(step), "seconds": seconds, "exit_code": code})
        elif code == RecipeError.exit_code:  # refused before it began
            self._keep(step, {key: value for key, value in known.items() if key != "begun"})
        return StepResult(step.name, shlex.join(step.words), "failed" if code else "done", seconds, code)

    def _keep(self, step: Step, known: dict[str, Any]) -> None:
        self.kept[step.name] = known
        write_whole(self.state, json.dumps({"schema": SCHEMA, "steps": self.kept}, indent=1) + "\n")

    def fingerprint(self, step: Step) -> str:
        """Return a digest of a step's words, of what it reads and of the version of this package."""
        digest = hashlib.sha256(json.dumps([__version__, step.words, *step.reads]).encode())
        for word in (word for word in (*step.words, *step.reads) if word not in step.outputs):
            for part in self._named(word):
                content = ""
                with suppress(ModelLoadError):  # it cannot be had from the hub, as its command will say
                    content = _digest(fetched(part)) if on_hub(part) else self._content(self.folder / part)
                digest.update(f"{part} {content}\n".encode())
        return digest.hexdigest()[:16]

    def _named(self, word: str) -> list[str]:
        """Return what a word may name: a place on the hub, a file, or what stands around colons and the like."""
        if on_hub(word):
            return [word]
        parts = [word, word.partition(":")[2], *re.split("[:=,+]", word)]
        return [part for part in dict.fromkeys(parts) if part and (self.folder / part).exists()]

    def _content(self, path: Path) -> str:
        """Return what tells the content of a folder, or of a file and the images it names, without what steps make."""
        own, is_table = _digest(path) if path.is_file() else "", path.suffix.lower() in _TABLES
        if own and not is_table:
            return own
        folder, kinds = (path.parent, EXTENSIONS) if own else (path, EXTENSIONS | _TABLES)
        made = [self.folder / name for step in self.steps for name in self._written(step)]
        made = [each for each in made if each != path and each not in path.parents]
        with reading(folder, DataError, advice="run again"):
            found = sorted(each for each in folder.rglob("*") if each.suffix.lower() in kinds and each.is_file())
        kept = (each for each in found if each != path and not any(each.is_relative_to(one) for one in made))
        names = _names_in(path) if own else frozenset()
        read = (each for each in kept if not names or names & _names_of(each.name))
        told = json.dumps([own, *((str(each.relative_to(folder)), _digest(each)) for each in read)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _made(self, step: Step) -> dict[str, str]:
        paths = {name: self.folder / name for name in sorted(self._written(step))}
        return {name: _digest(path) if path.is_file() else self._content(path) for name, path in paths.items()}

    def _written(self, step: Step) -> Iterator[str]:
        """Yield what a step writes and is there, where {seed} stands in its name for each."""
        for name in (str(local_target(Path(name))) for name in step.outputs):
            yield from glob(escape(name).replace("{seed}", "*"), root_dir=self.folder)  # noqa: PTH207

    def _call(self, step: Step, *, quiet: bool) -> int:
        command = [sys.executable, "-m", "iqa_armor", *step.words]
        process = subprocess.Popen(command, cwd=self.folder, stdout=2 if quiet else None)
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code  # as shells say that a signal ended it
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _digest(path: Path) -> str:
    return _digest_of(file_version(path))


@lru_cache(_REMEMBERED)
def _digest_of(version: tuple[str, int, int, int]) -> str:
    return sha256_of(Path(version[0]), DataError, advice="run again")[:16]


def _names_in(table: Path) -> frozenset[str]:
    """Return names that stand in the cells of a table, those of its images among them; none if it is no table."""
    cells: set[str] = set()
    with suppress(DataError):
        cells = {cell for row in read_labels(table).rows for cell in row.values.values()}
    names = {cell.replace("\\", "/").rpartition("/")[2] for cell in cells}
    return frozenset(chain.from_iterable(map(_names_of, names)))


def _names_of(file: str) -> set[str]:
    """Return the name of a file, with and without its extension, however its letters are written."""
    same = unicodedata.normalize("NFC", file).casefold()
    return {same, same.rpartition(".")[0] or same}
