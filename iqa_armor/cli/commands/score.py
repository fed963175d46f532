"""`iqa-armor score`: the quality of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from pydantic import Field

from iqa_armor.cli import arguments, console
from iqa_armor.cli.console import JSON, SCORED, going_on, say, stderr, stdout
from iqa_armor.cli.options import options
from iqa_armor.errors import ArmorError, DataError, UsageError
from iqa_armor.pipeline.settings import Opening
from iqa_armor.results.rows import Format, RowFile, line_of, printable
from iqa_armor.settings import CallSettings, Flag

if TYPE_CHECKING:
    from iqa_armor.pipeline.score import Scored

Row = dict[str, Any]
IMAGES = "Image files, folders of them, or patterns. \\[default: those of LIST]"


class Rows(CallSettings):
    """Of which images, and what, there are rows; no score depends on how many are decoded and scored at once."""

    from_file: str | None = None
    kind: Annotated[Format | None, Flag(("--format",))] = None
    scale: Literal["mos", "percentile", "0-100"] | None = None
    scale_data: str | None = None
    strict: bool = False
    batch_size: int | None = Field(None, ge=1)
    workers: int | None = Field(None, ge=1, le=256)


@options(without={"threat", "lower_is_better", "dry_run"}, usual={*Rows.model_fields, "device"} - {"workers"})
def score(
    model: arguments.ModelArg,
    wanted: Rows,
    defenses: arguments.Defenses,
    call: arguments.ModelCall,
    draws: arguments.Draws,
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE…", help=IMAGES)] = None,
    output: Annotated[Path | None, arguments.output_option("FILE", shown="stdout")] = None,
    resume: arguments.ResumeOpt = False,
) -> None:
    """An image that cannot be scored is told and left out; --resume scores what FILE does not have.

    Examples:
        iqa-armor score model.pt photo.jpg
        iqa-armor score model.safetensors photos/ -o scores.csv --scale percentile
        find photos -name '*.jpg' | iqa-armor score model.pt --from-file - -o s.jsonl
    """
    from iqa_armor.models.training_scores import rescaling
    from iqa_armor.pipeline.score import count_images, each_score, listed_images

    kind, device, listed = _kind(wanted, images, output, resume=resume), call.chosen(), wanted.from_file
    with ExitStack() as held:
        held.enter_context(call.claimed(output, source=model, resumes=resume))
        bars = held.enter_context(console.progress())
        opened = defenses.around(call.load(model)).to(device)
        if wanted.scale and wanted.scale_data is not None:
            from iqa_armor.evaluation.scale import measure_training_scores

            known = arguments.Labels().open(wanted.scale_data, seed=draws.seed, progress=bars).training()
            measure_training_scores(opened, known, lambda done: bars("scoring training images", done, len(known)))
        means: dict[str, Any] = {} if wanted.scale is None else {wanted.scale: rescaling(opened, wanted.scale)}
        columns = ("image", "score", *means)
        work = partial(each_score, batch_size=wanted.batch_size, workers=wanted.workers)
        scores = partial(work, opened, device=device, seed=draws.seed)
        run = _Run(bars, count_images(images or (), listed), means)
        file = None if output is None or kind is None else RowFile(output, kind, columns, resume=resume)
        if file is not None:
            held.enter_context(going_on(SCORED, file.growing))
            file.require_same(lambda path: next(scores([path])).score)
        new = run.new(listed_images(images or (), listed), () if file is None else file.done)
        collected = _write(run.rows(scores(new)), file, kind, columns)
    run.finish(images, strict=wanted.strict)
    span = opened.scale and [opened.scale.low, opened.scale.high]
    facts: Row = {"model": opened.name, "score_range": span, "failed": run.failed}
    facts |= {"images": collected} if file is None else {"output": str(output), "scored": run.scored}
    if not console.show_if_json(facts) and kind is None:
        rows = ((row["image"], *(f"{row[name]:.4f}" for name in columns[1:])) for row in collected)
        console.show_table(columns, rows, caption=console.SCALE_NOTE.format(opened.scale) if opened.scale else None)
    if images:
        console.say_next("attack", model, images[0], "-o", "attacked", *call.words(Opening), to=stderr)


def _write(rows: Iterable[Row], file: RowFile | None, kind: Format | None, columns: tuple[str, ...]) -> list[Row]:
    if kind is None:
        return [*rows]
    if file is None and kind == "csv":
        rows = itertools.chain([dict(zip(columns, columns, strict=True))], rows)
    with file or nullcontext():
        for row in rows:
            if file is not None:
                file.add(row)
            else:
                stdout.file.write(printable(line_of(row, kind)))
                stdout.file.flush()
    return []


def _kind(wanted: Rows, images: Any, output: Path | None, *, resume: bool) -> Format | None:
    kind = wanted.kind
    if not images and wanted.from_file is None:
        raise UsageError("name IMAGEs, or a list of them with --from-file")
    if output is None and (resume or kind == "parquet"):
        raise UsageError(f"{'--resume' if resume else '--format parquet'} takes a file; name it with -o OUT")
    if JSON.get() and output is None and kind is not None:
        raise UsageError("--json and --format both write to stdout; leave one away, or name a file with -o OUT")
    if output is None or kind is not None:
        return kind
    found = next((known for known in get_args(Format) if output.suffix == f".{known}"), None)
    if found is None:
        raise UsageError(f"cannot tell what {output} is to be; name it .csv, .jsonl or .parquet, or give --format")
    return found  # type: ignore[no-any-return]


@dataclass
class _Run:
    """What is told of a run while it goes on, and in the end; `means` are the columns beside the score."""

    bars: console.Bars
    total: int
    means: Mapping[str, Callable[[float], float]]
    kept: int = 0
    scored: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    first: ArmorError | None = None

    def new(self, paths: Iterable[Path], done: Collection[str]) -> Iterator[Path]:
        for path in paths:
            if done and printable(str(path)) in done:
                self.kept += 1
            else:
                yield path

    def rows(self, found: Iterable[Scored]) -> Iterator[Row]:
        for one in found:
            if one.error is None:
                self.scored += 1
                meant = {name: mean(one.score) for name, mean in self.means.items()}
                yield {"image": str(one.path), "score": one.score, **meant}
            else:
                self.first = self.first or one.error
                self.failed.append({"image": str(one.path), "reason": str(one.error)})
                say(f"left out {one.path}: {one.error}", to=stderr)
            self.bars("scoring", self.kept + self.scored + len(self.failed), self.total)

    def finish(self, named: Any, *, strict: bool) -> None:
        """Say what was left out; an error of the first one's kind if nothing has a score, or a DataError if strict."""
        failed = len(self.failed)
        count = self.kept + self.scored + failed
        if not count:
            raise DataError(f"no images in {', '.join(map(str, named or ())) or 'the list'}")
        if self.first is not None and count == failed:
            raise type(self.first)(f"none of {count} images could be scored; the first one: {self.first}")
        if failed and strict:
            raise DataError(f"{failed} of {count} images could not be scored")
        if failed or self.kept:
            kept = f", {self.kept} were there already" * bool(self.kept)
            say(f"scored {self.scored} images{kept}; {failed} could not be scored", to=stderr)
