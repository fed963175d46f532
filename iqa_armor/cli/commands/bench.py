"""`iqa-armor bench`: what models cost to run and to train, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from iqa_armor.cli.console import progress, show_json, stdout
from iqa_armor.cli.options import (
    ArchOpt,
    DeviceOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    MeanOpt,
    StdOpt,
    TrustOpt,
    opening_of,
    size_of,
)

if TYPE_CHECKING:
    from iqa_armor.pipeline.bench import Benchmark, BenchSettings
    from iqa_armor.pipeline.bench_costs import Cost

MEBI = 2**20


def bench(
    context: typer.Context,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL…", help="Model files; ratios refer to the first.")],
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Size of the images. [default: each model's own]")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images per call; may be repeated. [default: 1 and 8]")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; each times every model once per batch.")] = 10,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Recompute what orthogonal layers otherwise keep between calls."),
    ] = False,
    no_training: Annotated[bool, typer.Option("--no-training", help="Leave out training steps.")] = False,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Leave out peak memory.")] = False,
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    trust_pickle: TrustOpt = False,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Time MODELs side by side: calls, training steps, memory, parameters, operations, file size."""
    from iqa_armor.pipeline.bench import BenchSettings, benchmark

    settings = BenchSettings(
        size=None if size is None else size_of(size, option="--size"),
        batches=tuple(dict.fromkeys(batch or (1, 8))),
        repeats=repeats,
        device=device,
        cache_limit=0 if no_cache else None,
        has_training=not no_training,
        has_memory=not no_memory,
    )
    with progress() as bars:
        found = benchmark(models, settings, opening=opening_of(context.params), progress=bars)
    if json:
        show_json(found.as_plain())
        return
    stdout.print(_table(found, settings))


def _table(found: Benchmark, settings: BenchSettings) -> Table:
    used = found.settings
    table = Table(
        caption=f"{used['device']}, {used['threads']} threads, torch {used['torch']}; medians of {used['repeats']} "
        f"rounds; in brackets: times the first model; memory: {used['memory_method']}, the model included"
    )
    table.add_column("")
    for cost in found.models:
        table.add_column(cost.name, justify="right", overflow="fold")
    for heading, cell in _rows(found, settings):
        table.add_row(heading, *(cell(cost) for cost in found.models))
    return table


def _rows(found: Benchmark, settings: BenchSettings) -> Iterator[tuple[str, Callable[[Cost], str]]]:
    """Yield the figures with what shows one of them for a model."""
    yield "image", lambda cost: "{}x{}".format(*cost.size)
    for size in map(str, settings.batches):
        yield (
            f"call, batch {size}",
            lambda cost, size=size: _cell(_time(cost.latency[size]), cost.ratio["latency"][size]),  # type: ignore[misc]
        )
        yield f"images/s, batch {size}", lambda cost, size=size: f"{cost.throughput[size]:.3g}"  # type: ignore[misc]
    yield "first call", lambda cost: _cell(_time(cost.first_call), cost.ratio["first_call"])
    if settings.has_training:
        heading = f"training step, batch {settings.training_batch}"
        yield heading, lambda cost: _cell(_time(cost.training_step), cost.ratio["training_step"])
    yield "parameters", lambda cost: _cell(f"{cost.parameters / 1e6:.2f} M", cost.ratio["parameters"])
    yield "operations per image", lambda cost: _cell(f"{cost.flops / 1e9:.3g} G", cost.ratio["flops"])
    yield "file", lambda cost: _cell(_memory(cost.file_bytes), cost.ratio["file_bytes"])
    for task in found.models[0].peak_memory:
        yield (
            f"peak memory, {task}",
            lambda cost, task=task: _cell(_memory(cost.peak_memory[task]), cost.ratio["peak_memory"][task]),  # type: ignore[misc]
        )
    yield "kept between calls", lambda cost: f"{_memory(cost.cache_bytes)} of {_memory(cost.cache_limit_bytes)}"


def _cell(value: str, ratio: float | None) -> str:
    return value if ratio is None else f"{value} (×{ratio:.2f})"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.4g} ms"


def _memory(count: int | None) -> str:
    return "–" if count is None else f"{count / MEBI:.1f} MiB"
