"""`iqa-armor evaluate`: models clean and under attack, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import Field

from iqa_armor.cli.arguments import (
    BaselineOpt,
    Defenses,
    Draws,
    JsonOpt,
    Machine,
    ModelsArg,
    ReportOpt,
    SeveralDataOpt,
    open_data,
)
from iqa_armor.cli.console import note, progress, show_json, stderr, stdout
from iqa_armor.cli.options import options
from iqa_armor.machine import is_main_process
from iqa_armor.pipeline.opening import Opening
from iqa_armor.settings import read_levels

if TYPE_CHECKING:
    from iqa_armor.evaluation.evaluation import Evaluation
    from iqa_armor.results.outcome import Outcome
    from iqa_armor.results.requirements import Requirement


class Compared(Defenses):
    """Defenses that are compared, each under each threat."""

    threat: Literal["both", "adaptive", "bare"] = Field(  # type: ignore[assignment]
        "both", description=str(Defenses.model_fields["threat"].description)
    )


@options()
def evaluate(
    models: ModelsArg,
    defenses: Compared,
    opening: Opening,
    draws: Draws,
    machine: Machine,
    baseline: BaselineOpt = None,
    data: SeveralDataOpt = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of each --data in combined figures. [default: 2 with scores, 1 without]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most images per dataset, spread over it.")] = None,
    attack: Annotated[list[str] | None, typer.Option(metavar="NAME[:KEY=VALUE,…]", help="Attacks.")] = None,
    epsilon: Annotated[
        str, typer.Option(metavar="E,E,…", help="L-infinity budgets, in 1/255 of the pixel range.")
    ] = "2,4,6,8,10",
    direction: Annotated[Literal["up", "down"], typer.Option(help="Whether attacks raise or lower the score.")] = "up",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    eot: Annotated[int, typer.Option(min=1, help="Draws that attacks average where a defense is random (EOT).")] = 8,
    checks: Annotated[
        bool,
        typer.Option(
            "--checks",
            help="Check that small gains are no weakness of the attacks: stronger, black-box and borrowed attacks, "
            "gradients, randomness.",
        ),
    ] = False,
    check_images: Annotated[int, typer.Option(min=1, help="Most images that the checks use.")] = 16,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Keep results per image there; the same command goes on from them. Also gets outcome.json.",
        ),
    ] = None,
    report: ReportOpt = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="OUT.csv|….jsonl|….parquet", help="Write the scores: a row per image, attack and budget."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR",
            help="Exit with 10 unless it holds for every model but the baseline, e.g. 'srocc_drop <= 0.01' or "
            "'ratio_to_baseline.attacks.pgd8.abs_gain_auc <= 0.8'. May be repeated.",
        ),
    ] = None,
    json: JsonOpt = False,
) -> None:
    """The test split is used, else the validation split."""
    from iqa_armor.evaluation.evaluation import evaluate as evaluate_models
    from iqa_armor.evaluation.settings import EvaluationSettings
    from iqa_armor.files import require_writable, write_whole
    from iqa_armor.pipeline.defended_models import THREATS, defended_models
    from iqa_armor.pipeline.load import load_models
    from iqa_armor.results.requirements import parse_requirement, require_path
    from iqa_armor.results.table import check_table_file, write_table

    requirements = [parse_requirement(text) for text in require or ()]
    if report is not None:
        require_writable(report)
    if scores is not None:
        check_table_file(scores)
        require_writable(scores)
    settings = EvaluationSettings(
        epsilons=read_levels(epsilon),
        attacks=tuple(attack or ("pgd1", "pgd8")),
        direction=1 if direction == "up" else -1,
        batch_size=batch_size,
        limit=limit,
        checks=checks,
        check_images=check_images,
        eot=eot,
        seed=draws.seed,
        weights=tuple(weight) if weight else None,
    )
    for requirement in requirements:  # a mistyped path should not cost an evaluation
        require_path(requirement, budgets=settings.budgets(), datasets=data or [])
    paths = ([baseline] if baseline is not None and baseline not in models else []) + models
    threats = [known for known in THREATS if defenses.threat in (known, "both")]
    with progress() as bars:
        opened = defended_models(load_models(paths, opening), defenses.purify, defenses.smooth, threats=threats)
        datasets = [open_data(spec, seed=draws.seed, progress=bars) for spec in data or (None,)]
        found = evaluate_models(
            opened,
            datasets,
            baseline=None if baseline is None else paths.index(baseline),
            settings=settings,
            output=output,
            device=machine.chosen(),
            progress=bars,
        )
        if not is_main_process():
            return
        if output is not None:
            write_whole(output / "outcome.json", found.outcome.to_json() + "\n")
        if scores is not None:
            write_table(found.table, scores)
        if report is not None:
            write_whole(report, _page(found))
            note(f"wrote {report}")
    _show(found.outcome, requirements, json=json)


def _page(found: Evaluation) -> str:
    from iqa_armor.evaluation.pictures import take_pictures
    from iqa_armor.report.attack_figures import headline
    from iqa_armor.report.evaluation import evaluation_report
    from iqa_armor.report.page import render_page

    attack, budget = headline(found.outcome)
    pictures = take_pictures(found, attack=attack, budget=budget)
    return render_page(evaluation_report(found.outcome, found.table, pictures))


def _show(outcome: Outcome, requirements: list[Requirement], *, json: bool) -> None:
    """Show the outcome, then fail if a requirement does not hold."""
    from iqa_armor.errors import RequirementError
    from iqa_armor.results.requirements import unmet

    failures = [failure for requirement in requirements for failure in unmet(requirement, outcome)]
    if json:
        show_json(outcome.model_dump(mode="json"))
    else:
        from iqa_armor.report.evaluation import evaluation_report
        from iqa_armor.report.terminal import TerminalReport

        stdout.print(TerminalReport(evaluation_report(outcome)))
    if failures:
        raise RequirementError("; ".join(map(str, failures)))
    if requirements:
        stderr.print(f"all {len(requirements)} requirements hold")
