"""`iqa-armor evaluate`: models clean and under attack, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from iqa_armor.cli.console import progress, show_json, stderr, stdout
from iqa_armor.cli.files import require_writable, write_text
from iqa_armor.cli.options import (
    PURIFY_HELP,
    SMOOTH_HELP,
    ArchOpt,
    DeviceOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    LowerOpt,
    MeanOpt,
    ScoreRangeOpt,
    StdOpt,
    TrustOpt,
    numbers_of,
    open_data,
    opening_of,
)

if TYPE_CHECKING:
    from iqa_armor.data.base import Dataset
    from iqa_armor.evaluation import Evaluation, EvaluationSettings
    from iqa_armor.models.base import QualityModel
    from iqa_armor.results import Outcome, Requirement


def evaluate(
    context: typer.Context,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL…", help="Model files.")],
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="The model that the others are compared with; evaluated as well."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="SPEC",
            help="As in harden; may be repeated. The test split is used, else the validation split. "
            "[default: koniq10k: at the folder named by IQA_ARMOR_KONIQ10K]",
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of each --data in combined figures. [default: 2 with scores, 1 without]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most images per dataset, spread over it.")] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,…]",
            help="pgdN, mifgsm, amifgsm, apgd, square, uap, facpa, korhonen-you, zhang, ssah within --epsilon; l2pgd, "
            "madc, stadv, advcf with a budget of their own. May be repeated. [default: pgd1 and pgd8]",
        ),
    ] = None,
    epsilon: Annotated[
        str, typer.Option(metavar="E,E,…", help="L-infinity budgets, in 1/255 of the pixel range.")
    ] = "2,4,6,8,10",
    direction: Annotated[Literal["up", "down"], typer.Option(help="Whether attacks raise or lower the score.")] = "up",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    purify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PARAMS][+…]",
            help=f"Also evaluate each model behind a purifier: {PURIFY_HELP} May be repeated, to compare several.",
        ),
    ] = None,
    smooth: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PARAMS]",
            help=f"Also evaluate each model with smoothed scores: {SMOOTH_HELP} May be repeated, to compare several.",
        ),
    ] = None,
    threat: Annotated[
        Literal["both", "adaptive", "bare"],
        typer.Option(help="Whether attacks know the defenses, or fool the bare model, or both one after the other."),
    ] = "both",
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
    report: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="Write a report that needs no network, with images.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR",
            help="Exit with 10 unless it holds for every model but the baseline, e.g. 'srocc_drop <= 0.01' or "
            "'ratio_to_baseline.attacks.pgd8.abs_gain_auc <= 0.8'. May be repeated.",
        ),
    ] = None,
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    score_range: ScoreRangeOpt = None,
    lower_is_better: LowerOpt = False,
    trust_pickle: TrustOpt = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and of attacks that draw.")] = 0,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Measure quality prediction and robustness of MODELs, with attacks."""
    from iqa_armor import evaluation
    from iqa_armor.results import parse_requirement, require_path
    from iqa_armor.training import is_main_process

    requirements = [parse_requirement(text) for text in require or ()]
    if report is not None:
        require_writable(report)
    settings = _settings(
        epsilon,
        attacks=tuple(attack or ("pgd1", "pgd8")),
        direction=1 if direction == "up" else -1,
        batch_size=batch_size,
        limit=limit,
        checks=checks,
        check_images=check_images,
        eot=eot,
        device=device,
        seed=seed,
        weights=tuple(weight) if weight else None,
    )
    for requirement in requirements:  # a mistyped path should not cost an evaluation
        require_path(requirement, budgets=settings.budgets(), datasets=data or [])
    paths = ([baseline] if baseline is not None and baseline not in models else []) + models
    with progress() as bars:
        opened = _defended(_open(paths, context), purify or [], smooth or [], threat=threat)
        datasets = [open_data(spec, seed=seed, progress=bars) for spec in data or (None,)]
        found = evaluation.evaluate(
            opened,
            datasets,
            baseline=None if baseline is None else paths.index(baseline),
            settings=settings,
            output=output,
            on_progress=lambda p: bars(f"evaluating {p.model} on {p.dataset}", p.done, p.total),
        )
        if not is_main_process():
            return
        if output is not None:
            write_text(output / "outcome.json", found.outcome.to_json() + "\n")
        if report is not None:
            _write_report(report, found, opened, datasets, settings)
    _show(found.outcome, requirements, json=json)


def _write_report(
    path: Path,
    found: Evaluation,
    models: list[QualityModel],
    datasets: list[Dataset],
    settings: EvaluationSettings,
) -> None:
    from iqa_armor.evaluation import build_exhibit
    from iqa_armor.report import headline, render_page

    attack, budget = headline(found.outcome)
    exhibit = build_exhibit(found, models, datasets, settings, attack=attack, budget=budget)
    write_text(path, render_page(found.outcome, exhibit))
    stderr.print(f"wrote {path}", markup=False, soft_wrap=True)


def _settings(epsilons: str, *, device: str, **values: object) -> EvaluationSettings:
    from iqa_armor.evaluation import EvaluationSettings
    from iqa_armor.pipeline.devices import choose_device

    budgets = tuple(value / 255 for value in numbers_of(epsilons, count=None, option="--epsilon"))
    return EvaluationSettings(epsilons=budgets, device=choose_device(device), **values)  # type: ignore[arg-type]


def _open(paths: list[Path], context: typer.Context) -> list[QualityModel]:
    """Open every model; two files of one name are told apart by their folders."""
    from iqa_armor.pipeline.loading import load_model

    opened = [load_model(path, opening=opening_of(context.params)) for path in paths]
    stems = [path.stem for path in paths]
    for model, path in zip(opened, paths, strict=True):
        model.name = path.stem if stems.count(path.stem) == 1 else str(path)
    return opened


def _defended(models: list[QualityModel], purify: list[str], smooth: list[str], *, threat: str) -> list[QualityModel]:
    from iqa_armor.pipeline.defending import THREATS, defended_models

    chosen = [known for known in THREATS if threat in (known, "both")]
    return defended_models(models, purify, smooth, threats=chosen)


def _show(outcome: Outcome, requirements: list[Requirement], *, json: bool) -> None:
    """Show the outcome, then fail if a requirement does not hold."""
    from iqa_armor.errors import RequirementError
    from iqa_armor.results import check

    failures = [failure for requirement in requirements for failure in check(requirement, outcome)]
    if json:
        show_json(outcome.model_dump(mode="json"))
    else:
        from iqa_armor.report import TerminalReport

        stdout.print(TerminalReport(outcome))
    if failures:
        raise RequirementError("; ".join(map(str, failures)))
    if requirements:
        stderr.print(f"all {len(requirements)} requirements hold")
