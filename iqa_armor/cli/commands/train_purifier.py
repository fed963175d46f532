"""`iqa-armor train-purifier`: a filter that undoes attacks of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from iqa_armor.cli.commands.harden import check_target
from iqa_armor.cli.console import progress, show_json, stdout
from iqa_armor.cli.options import (
    ArchOpt,
    DataOpt,
    DeviceOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    LowerOpt,
    MeanOpt,
    ModelArg,
    ScoreRangeOpt,
    StdOpt,
    TrustOpt,
    numbers_of,
    open_data,
    opening_of,
)

if TYPE_CHECKING:
    from iqa_armor.pipeline.train_purifier import TrainedPurifier


def train_purifier(
    context: typer.Context,
    model: ModelArg,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="File to write.")] = Path(
        "fcn.safetensors"
    ),
    data: DataOpt = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="As in evaluate; may be repeated, images take turns with them. [default: pgd8]"),
    ] = None,
    epsilon: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS", help="L-infinity budgets, in 1/255 of the pixel range; images take turns with them."
        ),
    ] = "2,4,6,8,10",
    direction: Annotated[
        Literal["up", "down", "both"], typer.Option(help="Whether attacks raise or lower the score, or take turns.")
    ] = "up",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pairs of attacked and clean images.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Peak step size of Adam.")] = 2e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 4,
    limit: Annotated[
        int,
        typer.Option(min=4, help="Training images used, spread evenly; their attacked versions are kept in memory."),
    ] = 512,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Attack the training images anew in every epoch, which takes longer.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    score_range: ScoreRangeOpt = None,
    lower_is_better: LowerOpt = False,
    trust_pickle: TrustOpt = False,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Train a small filter to turn attacked images back into clean ones, for --purify fcn:path=OUT.

    The attacks are those of MODEL without a filter. A tenth of the training images is held out: it chooses the epoch,
    and the figures shown are taken on it.
    """
    from iqa_armor.pipeline.fitting import Options
    from iqa_armor.pipeline.loading import load_model
    from iqa_armor.pipeline.train_purifier import Threats, train_purifier
    from iqa_armor.training import FilterSettings

    check_target(output, model)
    settings = FilterSettings(epochs, learning_rate, batch_size, fresh, seed)
    budgets = tuple(value / 255 for value in numbers_of(epsilon, count=None, option="--epsilon"))
    threats = Threats(tuple(attack or ("pgd8",)), budgets, direction)
    threats.build()  # a word that means nothing is refused before anything is read
    with progress() as bars:
        opened = load_model(model, opening=opening_of(context.params))
        dataset = open_data(data, seed=seed, progress=bars)
        options = Options(device=device, progress=bars)
        result = train_purifier(opened, dataset, settings, threats=threats, limit=limit, options=options)
    result.save(output)
    if json:
        show_json({"output": str(output), **result.provenance})
        return
    _show(result, f"{opened.name} on {dataset.spec}")
    stdout.print(f"wrote {output} (epoch {result.fitted.best})", markup=False, soft_wrap=True)


def _show(result: TrainedPurifier, title: str) -> None:
    table = Table(title=title)
    for heading in ("epoch", "loss", "held-out loss", "held-out PSNR", "seconds"):
        table.add_column(heading, justify="right")
    for epoch in result.fitted.epochs:
        mark = " *" if epoch.number == result.fitted.best else ""
        loss = f"{epoch.loss:.6f}" if epoch.number else "-"
        table.add_row(
            f"{epoch.number}{mark}", loss, f"{epoch.held_out:.6f}", f"{epoch.psnr:.2f}", f"{epoch.seconds:.1f}"
        )
    stdout.print(table)
    undone = result.undone
    table = Table(title=f"{undone.images} held-out images")
    for heading in ("", "PSNR", "quality score", "gain score"):
        table.add_column(heading, justify="right")
    table.add_row("attacked", f"{undone.psnr_before:.2f}", f"{undone.quality_before:.4f}", f"{undone.gain_before:.3f}")
    table.add_row(
        "attacked, filtered", f"{undone.psnr_after:.2f}", f"{undone.quality_after:.4f}", f"{undone.gain_after:.3f}"
    )
    table.add_row("clean, filtered", f"{undone.psnr_clean:.2f}", "", f"{undone.gain_clean:.3f}")
    stdout.print(table)
    if undone.gain_after >= undone.gain_before:
        stdout.print("warning: the filter undoes none of the attacks' effect on the score", markup=False)
