"""`iqa-armor score`: the quality of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

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
    TrustOpt,
    opening_of,
)


def score(
    context: typer.Context,
    model: ModelArg,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files, or folders of them.")],
    purify: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:PARAMS]", help=f"Purify images first: {PURIFY_HELP} May be repeated, in order."),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(metavar="NAME[:PARAMS]", help=f"Smooth scores: {SMOOTH_HELP}"),
    ] = None,
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    score_range: ScoreRangeOpt = None,
    trust_pickle: TrustOpt = False,
    seed: Annotated[int, typer.Option(min=0, help="Of defenses that draw.")] = 0,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Score images with MODEL."""
    from iqa_armor.pipeline.defending import defended_model
    from iqa_armor.pipeline.loading import load_model
    from iqa_armor.pipeline.score import score_files

    with progress() as bars:
        opened = defended_model(load_model(model, opening=opening_of(context.params)), purify or [], smooth)
        scored = score_files(opened, images, device=device, seed=seed, progress=bars)
    scale = opened.scale
    if json:
        span = None if scale is None else [scale.low, scale.high]
        listed = [{"image": str(path), "score": value} for path, value in scored]
        show_json({"model": opened.name, "score_range": span, "images": listed})
        return
    table = Table(caption=None if scale is None else f"training images score {scale.low:.4g} to {scale.high:.4g}")
    table.add_column("image", overflow="fold")
    table.add_column("score", justify="right")
    for path, value in scored:
        table.add_row(str(path), f"{value:.4f}")
    stdout.print(table)
