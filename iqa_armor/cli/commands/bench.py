"""`iqa-armor bench`: what models cost to run and to train, side by side."""

from collections.abc import Callable, Iterator
from typing import Any

from iqa_armor.cli.arguments import ModelCall, ModelsArg
from iqa_armor.cli.console import progress, say_next, show_forecasts, show_if_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.settings import BenchSettings, Opening

MEBI = 2**20


@options(
    without={"score_range", "lower_is_better", "overwrite"},
    usual=("size", "batches", "repeats", "has_training", "has_memory", "device"),
)
def bench(models: ModelsArg, settings: BenchSettings, call: ModelCall) -> None:
    """Ratios refer to the first MODEL. Rounds turn the order of the models, so that a busy machine is busy for all.

    Examples:
        iqa-armor bench model.pt model-hardened.safetensors
        iqa-armor bench model.pt hardened.safetensors --batch 1 --size 498x664
    """
    from iqa_armor.pipeline.bench import benchmark, forecast_benchmark

    if call.dry_run:
        show_forecasts(forecast_benchmark(models, settings, call, call.chosen()))
        return
    with progress() as bars:
        found = benchmark(models, settings, opening=call, device=call.chosen(), progress=bars)
    if show_if_json(found):
        return
    _show(found, settings)
    if models[1:]:
        say_next("evaluate", *models[1:], "--baseline", models[0], *call.words(Opening))
    else:
        say_next("harden", models[0], *call.words(Opening))


def _show(found: dict[str, Any], settings: BenchSettings) -> None:
    plain, used = found["models"], found["settings"]
    rows = [["image", *("{}x{}".format(*cost["size"]) for cost in plain)]]
    rows += [
        [heading, *(_cell(cost, path, written) for cost in plain)] for heading, path, written in _figures(settings)
    ]
    kept = (f"{_memory(cost['cache_bytes'])} of {_memory(cost['cache_limit_bytes'])}" for cost in plain)
    show_table(
        ["", *(cost["name"] for cost in plain)],
        [*rows, ["kept between calls", *kept]],
        caption=f"{used['device']}, {used['threads']} threads, torch {used['torch']}; medians of {used['repeats']} "
        f"rounds; in brackets: times the first model; memory: {used['memory_method']}, the model included",
    )


def _figures(settings: BenchSettings) -> Iterator[tuple[str, tuple[str, ...], Callable[[Any], str]]]:
    """Yield heading, place in the plain values, and how a figure is written."""
    for size in map(str, settings.batches):
        yield f"call, batch {size}", ("latency", size), _time
        yield f"images/s, batch {size}", ("throughput", size), "{:.3g}".format
    yield "first call", ("first_call",), _time
    if settings.has_training:
        yield f"training step, batch {settings.training_batch}", ("training_step",), _time
    yield "parameters", ("parameters",), lambda count: f"{count / 1e6:.2f} M"
    yield "operations per image", ("flops",), lambda count: f"{count / 1e9:.3g} G"
    yield "file", ("file_bytes",), _memory
    if settings.has_memory:
        yield "peak memory, inference", ("peak_memory", "inference"), _memory
        if settings.has_training:
            yield "peak memory, training", ("peak_memory", "training"), _memory


def _cell(cost: dict[str, Any], path: tuple[str, ...], written: Callable[[Any], str]) -> str:
    """Write a figure, with its ratio to the first model where it has one."""
    value, ratio = cost, cost["ratio"]
    for key in path:
        value, ratio = value[key], (ratio or {}).get(key)
    return written(value) if ratio is None else f"{written(value)} (×{ratio:.2f})"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.4g} ms"


def _memory(count: int | None) -> str:
    return "–" if count is None else f"{count / MEBI:.1f} MiB"
