"""`iqa-armor bench`: what models cost to run and to train, side by side."""

from collections.abc import Callable
from typing import Any

from iqa_armor.cli.arguments import ModelCall, ModelsArg
from iqa_armor.cli.console import progress, say_next, show_forecasts, show_if_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.settings import BenchSettings, Opening


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
    _show(found)
    follows = ["evaluate", *models[1:], "--baseline"] if models[1:] else ["harden"]
    say_next(*follows, models[0], *call.words(Opening))


def _show(found: dict[str, Any]) -> None:
    plain, used = found["models"], found["settings"]
    rows = [["image", *("{}x{}".format(*cost["size"]) for cost in plain)]]

    def add(heading: str, written: Callable[[Any], str], *path: str) -> None:
        """Add a figure of every model, with its ratio to the first one's where it has one."""
        rows.append([heading])
        for cost in plain:
            value, ratio = cost, cost["ratio"]
            for key in path:
                value, ratio = value[key], (ratio or {}).get(key)
            rows[-1].append(written(value) if ratio is None else f"{written(value)} (×{ratio:.2f})")

    for size in map(str, used["batches"]):
        add(f"call, batch {size}", _time, "latency", size)
        add(f"images/s, batch {size}", "{:.3g}".format, "throughput", size)
    add("first call", _time, "first_call")
    if plain[0]["training_step"] is not None:
        add(f"training step, batch {used['training_batch']}", _time, "training_step")
    add("parameters", lambda count: f"{count / 1e6:.2f} M", "parameters")
    add("operations per image", lambda count: f"{count / 1e9:.3g} G", "flops")
    add("file", _memory, "file_bytes")
    for task in plain[0]["peak_memory"]:
        add(f"peak memory, {task}", _memory, "peak_memory", task)
    kept = (f"{_memory(cost['cache_bytes'])} of {_memory(cost['cache_limit_bytes'])}" for cost in plain)
    how = f"{used['device']}, {used['threads']} threads, torch {used['torch']}; medians of {used['repeats']} rounds"
    caption = f"{how}; in brackets: times the first model; memory: {used['memory_method']}, the model included"
    show_table(["", *(cost["name"] for cost in plain)], [*rows, ["kept between calls", *kept]], caption=caption)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.4g} ms"


def _memory(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.1f} MiB"
