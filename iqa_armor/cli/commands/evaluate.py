"""`iqa-armor evaluate`: models clean and under attack, side by side."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import Field

from iqa_armor.cli import arguments
from iqa_armor.cli.console import JSON, progress, say, say_next, show_forecasts, show_if_json, stderr, stdout
from iqa_armor.cli.options import options
from iqa_armor.cli.signals import AGAIN, going_on
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.machine import is_main_process
from iqa_armor.pipeline.settings import Opening

if TYPE_CHECKING:
    import torch

    from iqa_armor.data.base import Dataset
    from iqa_armor.evaluation.evaluation import Evaluation
    from iqa_armor.models.base import QualityModel
    from iqa_armor.pipeline.forecast import Forecast
    from iqa_armor.results.outcome import Outcome
    from iqa_armor.results.requirements import Requirement


class Compared(arguments.Defenses):
    """Defenses that are compared, each under each threat."""

    threat: Literal["both", "adaptive", "bare"] = Field(  # type: ignore[assignment]
        "both", description=str(arguments.Defenses.model_fields["threat"].description)
    )


@options(
    without={"fit_images", "resamples", "confidence"},
    usual=("attacks", "epsilons", "checks", "limit", "purify", "device"),
)
def evaluate(
    models: arguments.ModelsArg,
    settings: EvaluationSettings,
    defenses: Compared,
    opening: Opening,
    labels: arguments.Labels,
    machine: arguments.Machine,
    baseline: arguments.BaselineOpt = None,
    data: arguments.SeveralDataOpt = None,
    output: Annotated[Path | None, arguments.output_option("DIR")] = None,
    report: arguments.ReportOpt = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE", help="Write the scores as .csv, .jsonl or .parquet; a row per image, attack and budget."
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR",
            help="Exit with 10 unless it holds for every model but the baseline; e.g. 'srocc_drop <= 0.01' or "
            "'ratio_to_baseline.attacks.pgd8.abs_gain_auc <= 0.8'. May be repeated.",
        ),
    ] = None,
    overwrite: arguments.OverwriteOpt = False,
    dry_run: arguments.DryRunOpt = False,
) -> None:
    """Of each dataset the test split is used, else the validation split. DIR keeps results, from which this goes on.

    Examples:
        iqa-armor evaluate h.safetensors --baseline m.pt --data csv:labels.csv
        iqa-armor evaluate m.pt --data csv:l.csv --limit 50 --attack pgd8 --epsilon 4
        iqa-armor evaluate m.pt --data csv:l.csv --require 'srocc >= 0.8' --json
    """
    from iqa_armor.evaluation.evaluation import evaluate as evaluate_models
    from iqa_armor.pipeline.load import THREATS, defended_models, load_models
    from iqa_armor.results.requirements import parse_requirement, require_path
    from iqa_armor.results.table import check_table_file

    requirements = [parse_requirement(text) for text in require or ()]
    if scores is not None:
        check_table_file(scores)
    for requirement in requirements:  # a mistyped path should not cost an evaluation
        require_path(requirement, budgets=settings.budgets(), ranking=settings.ranking_keys(), datasets=data or [])
    paths, position = arguments.with_baseline(models, baseline)
    threats = [known for known in THREATS if defenses.threat in (known, "both")]
    with ExitStack() as claims:
        targets = {output: True, report: False, scores: False}
        for target, is_folder in ({} if dry_run else targets).items():
            claims.enter_context(arguments.claimed(target, overwrite=overwrite, is_folder=is_folder, is_shared=True))
        claims.enter_context(going_on(AGAIN, output and output / "identity.json"))
        bars = claims.enter_context(progress())
        opened = defended_models(load_models(paths, opening), defenses.purify, defenses.smooth, threats=threats)
        datasets = [arguments.open_data(each, labels, seed=settings.seed, progress=bars) for each in data or (None,)]
        device = machine.chosen()
        if dry_run:
            show_forecasts(_forecasts(opened, datasets, settings, device))
            return
        found = evaluate_models(
            opened, datasets, baseline=position, settings=settings, output=output, device=device, progress=bars
        )
        if not is_main_process():
            return
        _write(found, output=output, scores=scores, report=report)
    _show(found.outcome, requirements)
    if not JSON.get():
        say_next("export", models[-1], "-o", models[-1].with_suffix(".onnx"), *opening.words())


def _write(found: Evaluation, *, output: Path | None, scores: Path | None, report: Path | None) -> None:
    from iqa_armor.files import write_whole
    from iqa_armor.results.table import write_table

    if output is not None:
        write_whole(output / "outcome.json", found.outcome.to_json() + "\n")
    if scores is not None:
        write_table(found.table, scores)
        say(f"wrote {scores}", to=stderr)
    if report is not None:
        write_whole(report, page_of(found))
        say(f"wrote {report}", to=stderr)


def _forecasts(
    models: list[QualityModel], datasets: list[Dataset], settings: EvaluationSettings, device: torch.device
) -> list[Forecast]:
    from iqa_armor.attacks.budgets import at_budgets
    from iqa_armor.pipeline.forecast import forecast_attacks

    attacks = [at_budgets(attack, settings.epsilons) for attack in settings.named_attacks().values()]
    limit, batch, eot = settings.limit, settings.batch_size, settings.eot
    return forecast_attacks(models, datasets, attacks, limit=limit, device=device, batch_size=batch, eot=eot)


def page_of(found: Evaluation) -> str:
    """Return the report as HTML, with pictures of what moved most."""
    from iqa_armor.evaluation.pictures import take_pictures
    from iqa_armor.report.attack_figures import headline
    from iqa_armor.report.evaluation import evaluation_report
    from iqa_armor.report.page import render_page

    attack, budget = headline(found.outcome)
    pictures = take_pictures(found, attack=attack, budget=budget)
    return render_page(evaluation_report(found.outcome, found.table, pictures))


def _show(outcome: Outcome, requirements: list[Requirement]) -> None:
    """Show the outcome, then fail if a requirement does not hold."""
    from iqa_armor.errors import RequirementError
    from iqa_armor.results.requirements import unmet

    failures = [failure for requirement in requirements for failure in unmet(requirement, outcome)]
    if not show_if_json(outcome.model_dump(mode="json")):
        from iqa_armor.report.evaluation import evaluation_report
        from iqa_armor.report.terminal import TerminalReport

        stdout.print(TerminalReport(evaluation_report(outcome)))
    if failures:
        raise RequirementError("; ".join(map(str, failures)))
    if requirements:
        stderr.print(f"all {len(requirements)} requirements hold")
