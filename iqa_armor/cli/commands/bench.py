"""`iqa-armor bench`: what models cost to run and to train, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from iqa_armor.cli.arguments import JsonOpt, Machine, ModelsArg
from iqa_armor.cli.console import progress, show_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.bench_settings import BenchSettings
from iqa_armor.pipeline.opening import Opening

if TYPE_CHECKING:
    from iqa_armor.pipeline.bench import Benchmark
    from iqa_armor.pipeline.bench_costs import Cost

MEBI = 2**20


@options(without={"score_range", "lower_is_better"})
def bench(
    models: ModelsArg, settings: BenchSettings, opening: Opening, machine: Machine, json: JsonOpt = False
) -> None:
    """Ratios refer to the first MODEL. Rounds turn the order of the models, so that a busy machine is busy for all."""
    from iqa_armor.pipeline.bench import benchmark

    with progress() as bars:
        found = benchmark(models, settings, opening=opening, device=machine.chosen(), progress=bars)
    if json:
        show_json(found.as_plain())
        return
    used = found.settings
    rows = ([heading, *map(cell, found.models)] for heading, cell in _rows(found, settings))
    show_table(
        ["", *(cost.name for cost in found.models)],
        rows,
        caption=f"{used['device']}, {used['threads']} threads, torch {used['torch']}; medians of {used['repeats']} "
        f"rounds; in brackets: times the first model; memory: {used['memory_method']}, the model included",
    )


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
