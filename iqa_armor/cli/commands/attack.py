"""`iqa-armor attack`: attacked images as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from iqa_armor.cli.console import progress, show_json, stdout
from iqa_armor.cli.options import (
    PURIFY_HELP,
    SMOOTH_HELP,
    ArchOpt,
    DeviceOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    MeanOpt,
    ModelArg,
    ScoreRangeOpt,
    StdOpt,
    ThreatOpt,
    TrustOpt,
    opening_of,
)

if TYPE_CHECKING:
    from iqa_armor.models.base import ScoreScale
    from iqa_armor.pipeline.attack_files import AttackedImage


def attack(
    context: typer.Context,
    model: ModelArg,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files, or folders of them.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder for the attacked images and attacks.csv."),
    ],
    attack: Annotated[
        list[str] | None,
        typer.Option(help="As in evaluate; may be repeated. Fitted attacks learn from IMAGEs. [default: pgd8]"),
    ] = None,
    epsilon: Annotated[
        float,
        typer.Option(
            min=0,
            max=255,
            help="L-infinity budget, in 1/255 of the pixel range, of attacks that have one and whose own settings "
            "do not name it.",
        ),
    ] = 4.0,
    direction: Annotated[Literal["up", "down"], typer.Option(help="Whether attacks raise or lower the score.")] = "up",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same names in DIR.")] = False,
    purify: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:PARAMS]", help=f"Purify images first: {PURIFY_HELP} May be repeated, in order."),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(metavar="NAME[:PARAMS]", help=f"Smooth scores: {SMOOTH_HELP}"),
    ] = None,
    threat: ThreatOpt = "adaptive",
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    score_range: ScoreRangeOpt = None,
    trust_pickle: TrustOpt = False,
    seed: Annotated[int, typer.Option(min=0, help="Of attacks and defenses that draw.")] = 0,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Attack images as MODEL sees them and write them as 8-bit PNG files.

    Clean scores are those of the images as MODEL sees them, attacked scores those of the written files.
    """
    from iqa_armor.pipeline.attack import attack_images, build_attacks
    from iqa_armor.pipeline.attack_files import TABLE
    from iqa_armor.pipeline.defending import defended_model
    from iqa_armor.pipeline.loading import load_model

    sign: Literal[1, -1] = 1 if direction == "up" else -1
    attacks = build_attacks(attack or ["pgd8"], epsilon=epsilon / 255, direction=sign)
    with progress() as bars:
        opened = defended_model(
            load_model(model, opening=opening_of(context.params)), purify or [], smooth, threat=threat
        )
        attacked = attack_images(
            opened, images, output, attacks=attacks, seed=seed, device=device, overwrite=overwrite, progress=bars
        )
    if json:
        listed = [entry.as_row() for entry in attacked]
        table = str(output / TABLE)
        show_json({"model": opened.name, "direction": sign, "seed": seed, "table": table, "images": listed})
        return
    _show(attacked, opened.scale)
    stdout.print(f"wrote {len(attacked)} images and {TABLE} to {output}", markup=False, soft_wrap=True)


def _show(attacked: list[AttackedImage], scale: ScoreScale | None) -> None:
    table = Table(caption=None if scale is None else f"training images score {scale.low:.4g} to {scale.high:.4g}")
    table.add_column("file", overflow="fold")
    for column in ("clean", "attacked", "gain", "L∞·255", "PSNR", "SSIM"):
        table.add_column(column, justify="right")
    for entry in attacked:
        scores = (f"{entry.clean_score:.4f}", f"{entry.attacked_score:.4f}", f"{entry.gain:+.4f}")
        table.add_row(Text(entry.file), *scores, f"{entry.linf:.2f}", f"{entry.psnr:.1f}", f"{entry.ssim:.4f}")
    stdout.print(table)
