"""`iqa-armor certify`: bounds of smoothed scores within a radius."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iqa_armor.cli.console import progress, show_json, stderr, stdout
from iqa_armor.cli.files import require_writable, write_text
from iqa_armor.cli.options import (
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
    open_data,
    opening_of,
)

if TYPE_CHECKING:
    from iqa_armor.models.base import QualityModel


def certify(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL… [IMAGE…]",
            help="Model files, and image files or folders of them; without images those of --data.",
        ),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="The model that the others are compared with; certified as well."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="As in evaluate. [default: without IMAGEs, koniq10k: at the folder named by IQA_ARMOR_KONIQ10K]",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most images of --data, spread over it.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,…]",
            help="ms and rs: median and mean over noisy images; dms, drs: with a denoiser in front; fs: median over "
            "noisy features, also fs:mode=calibrated. May be repeated; settings written here win over the options. "
            "[default: ms]",
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Noisy copies of an image. [default: 1000]")] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the noise, pixels being in [0, 1], not in 1/255. [default: 0.12]"),
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(help="L2 length of the whole change, pixels being in [0, 1], not in 1/255. [default: 0.05]"),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Of both bounds of an image together. [default: 0.999]")
    ] = None,
    denoiser: Annotated[
        str | None, typer.Option(metavar="NAME[:KEY=VALUE,…]", help="Purifier of dms and drs. [default: median]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Noisy copies per forward pass. [default: 16]")] = None,
    global_bound: Annotated[
        bool,
        typer.Option(
            "--global-bound/--no-global-bound", help="Whether fs also gets the product bound of its backbone."
        ),
    ] = True,
    report: Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page that needs no network.")] = None,
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    score_range: ScoreRangeOpt = None,
    lower_is_better: LowerOpt = False,
    trust_pickle: TrustOpt = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Bound the smoothed scores of MODELs for every change of an image within an L2 radius."""
    from iqa_armor.pipeline.certifying import CertifySettings, certify_files, certify_images
    from iqa_armor.report.certification import certification_report
    from iqa_armor.report.page import render_page
    from iqa_armor.report.terminal import TerminalReport

    models, images = _sorted(files, baseline)
    if images and (data is not None or limit is not None):
        raise typer.BadParameter("images are named, so there is nothing for --data and --limit to choose")
    settings = CertifySettings(
        methods=tuple(dict.fromkeys(method or ("ms",))),
        samples=samples,
        sigma=sigma,
        radius=radius,
        confidence=confidence,
        denoiser=denoiser,
        batch_size=batch_size,
        limit=limit,
        seed=seed,
        device=device,
        global_bound=global_bound,
    )
    settings.smoothers()  # a mistyped word should not cost the opening of models and data
    if report is not None:
        require_writable(report)
    position = None if baseline is None else models.index(baseline)
    with progress() as bars:
        opened = _opened(models, context)
        if images:
            found = certify_files(opened, images, settings, baseline=position, progress=bars)
        else:
            dataset = open_data(data, seed=seed, progress=bars)
            found = certify_images(opened, dataset, settings, baseline=position, progress=bars)
    if report is not None:
        write_text(report, render_page(certification_report(found)))
        stderr.print(f"wrote {report}", markup=False, soft_wrap=True)
    if json:
        show_json(found.as_plain())
        return
    stdout.print(TerminalReport(certification_report(found)))


def _sorted(files: list[Path], baseline: Path | None) -> tuple[list[Path], list[Path]]:
    """Return model files, the baseline among them, and image files or folders."""
    from iqa_armor.data.images import EXTENSIONS

    images = [path for path in files if path.is_dir() or path.suffix.lower() in EXTENSIONS]
    models = list(dict.fromkeys(path for path in files if path not in images))
    if baseline is not None and baseline not in models:
        models = [baseline, *models]
    if not models:
        raise typer.BadParameter("only images are named; name a MODEL file as well")
    return models, images


def _opened(paths: list[Path], context: typer.Context) -> list[QualityModel]:
    """Open every model; two files of one name are told apart by their folders."""
    from iqa_armor.pipeline.loading import load_model

    opened = [load_model(path, opening=opening_of(context.params)) for path in paths]
    stems = [path.stem for path in paths]
    for model, path in zip(opened, paths, strict=True):
        model.name = path.stem if stems.count(path.stem) == 1 else str(path)
    return opened
