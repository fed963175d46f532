"""`iqa-armor evaluate`: models clean and under attack, side by side."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from iqa_armor.cli import arguments
from iqa_armor.cli.console import AGAIN, going_on, progress, say, say_next, show_forecasts, show_if_json, stderr, stdout
from iqa_armor.cli.options import options
from iqa_armor.errors import RequirementError
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.files import write_whole
from iqa_armor.machine import is_main_process
from iqa_armor.pipeline.settings import Opening
from iqa_armor.progress import Progress, silent
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.requirements import Requirement, over_seeds, parse_requirement, require_path, unmet
from iqa_armor.settings import Flag

if TYPE_CHECKING:
    from iqa_armor.data.base import Dataset
    from iqa_armor.evaluation.evaluation import Evaluation
    from iqa_armor.models.base import QualityModel


class Compared(arguments.Defenses):
    """Defenses that are compared, each under each threat."""

    threat: Literal["both", "adaptive", "bare"] = "both"  # type: ignore[assignment]


class EvaluationCall(arguments.DataCall):
    """What is told of models, machine and files, with several datasets, a table of scores and requirements."""

    data: Annotated[tuple[str, ...], arguments.SPECS, arguments.DATA] = ()  # type: ignore[assignment]
    scores: Annotated[Path | None, Flag(kind=str)] = None
    require: tuple[str, ...] = ()


@options(
    without={"fit_images", "resamples", "confidence"},
    usual=("attacks", "epsilons", "checks", "limit", "purify", "scores", "require", "device"),
)
def evaluate(
    models: arguments.ModelsArg,
    settings: EvaluationSettings,
    defenses: Compared,
    call: EvaluationCall,
    baseline: arguments.BaselineOpt = None,
    output: Annotated[Path | None, arguments.output_option("DIR")] = None,
    report: arguments.ReportOpt = None,
    seeds: arguments.SeedsOpt = 1,
) -> None:
    """Of each dataset the test split is used, else the validation split. DIR keeps results, from which this goes on.

    Examples:
        iqa-armor evaluate h.safetensors --baseline m.pt --data csv:labels.csv
        iqa-armor evaluate m.pt --data csv:l.csv --require 'srocc >= 0.8' --json
        iqa-armor evaluate 'h{seed}.safetensors' --seeds 3 --data csv:l.csv
    """
    from iqa_armor.evaluation.evaluation import evaluate as evaluate_models
    from iqa_armor.pipeline.forecast import forecast_attacks
    from iqa_armor.results.table import check_table_file

    requirements, scores = [parse_requirement(text) for text in call.require], call.scores
    if scores is not None:
        check_table_file(scores)
    for requirement in requirements:  # a mistyped path should not cost an evaluation
        require_path(requirement, settings.report(), call.data)
    paths, position = arguments.with_baseline(models, baseline)
    numbers = range(settings.seed, settings.seed + seeds)
    runs = {seed: output if seeds == 1 else output and output / f"seed-{seed}" for seed in numbers}
    tables = dict(zip(runs, arguments.at_seeds(scores, runs) if scores else [None] * seeds, strict=True))
    targets = {output: True, report: False, **dict.fromkeys(tables.values(), False)}
    with ExitStack() as held:
        for target, is_folder in targets.items():
            held.enter_context(call.claimed(target, is_folder=is_folder, is_shared=True))
        first = runs[settings.seed]
        held.enter_context(going_on(AGAIN, first and first / "identity.json"))
        bars, device = held.enter_context(progress()), call.chosen()
        found: list[Evaluation] = []
        opened = partial(_opened, paths, call, defenses=defenses, bars=bars)
        evaluate_once = partial(evaluate_models, baseline=position, device=device, progress=bars)
        if call.dry_run:
            show_forecasts(seeds * forecast_attacks(*opened(settings.seed), settings, device))
            return
        for seed, folder in runs.items():
            found.append(evaluate_once(*opened(seed), settings=settings.changed(seed=seed), output=folder))
            _write(found[-1], folder, tables[seed])
        whole = replace(found[0], outcome=over_seeds([each.outcome for each in found]))
        _write(whole, output)
        if report is not None and is_main_process():
            write_whole(report, page_of(whole, bars))
            say(f"wrote {report}", to=stderr)
    if is_main_process():
        _show(whole.outcome, requirements)
        (last,) = arguments.at_seeds(models[-1], [settings.seed])
        say_next("export", last, "-o", last.with_suffix(".onnx"), *call.words(Opening))


def _opened(
    paths: list[Path], call: EvaluationCall, seed: int, *, defenses: Compared, bars: Progress
) -> tuple[list[QualityModel], list[Dataset]]:
    """Return the models of a seed, named alike for all seeds, with their defenses, and the datasets."""
    from iqa_armor.pipeline.load import THREATS, defended_models, load_models

    found = load_models([arguments.at_seeds(path, [seed])[0] for path in paths], call)
    for model, path in zip(found, paths, strict=True):
        model.name = path.stem if arguments.SEED in path.stem else model.name
    threats = [known for known in THREATS if defenses.threat in (known, "both")]
    datasets = [call.open(spec, seed=seed, progress=bars) for spec in call.data or (None,)]
    return defended_models(found, defenses.purify, defenses.smooth, threats=threats), datasets


def _write(found: Evaluation, output: Path | None, scores: Path | None = None) -> None:
    from iqa_armor.results.table import write_table

    if output is not None and is_main_process():
        write_whole(output / "outcome.json", found.outcome.to_json() + "\n")
    if scores is not None and is_main_process():
        write_table(found.table, scores)
        say(f"wrote {scores}", to=stderr)


def page_of(found: Evaluation, bars: Progress = silent) -> str:
    from iqa_armor.evaluation.pictures import take_pictures
    from iqa_armor.report import attack_figures, evaluation, page

    attack, budget = attack_figures.headline(found.outcome)
    pictures = take_pictures(found, attack=attack, budget=budget, progress=bars)
    return page.render_page(evaluation.evaluation_report(found.outcome, found.table, pictures))


def _show(outcome: Outcome, requirements: list[Requirement]) -> None:
    failures = [failure for requirement in requirements for failure in unmet(requirement, outcome).values()]
    if not show_if_json(outcome.model_dump(mode="json")):
        from iqa_armor.report import evaluation, terminal

        stdout.print(terminal.TerminalReport(evaluation.evaluation_report(outcome)))
    if failures:
        raise RequirementError("; ".join(failures))
    if requirements:
        stderr.print(f"all {len(requirements)} requirements hold")
