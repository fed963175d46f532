"""`iqa-armor certify`: bounds of smoothed scores within a radius."""

from pathlib import Path
from typing import Annotated

import typer

from iqa_armor.cli import arguments
from iqa_armor.cli.console import progress, say, say_next, show_forecasts, show_if_json, stderr, stdout
from iqa_armor.cli.options import options
from iqa_armor.pipeline.settings import CertifySettings, Opening

FILES = "Model files, and image files or folders of them; without images those of --data."


@options(usual=("methods", "samples", "sigma", "radius", "limit", "device"))
def certify(
    files: Annotated[list[Path], typer.Argument(metavar="MODEL… [IMAGE…]", help=FILES)],
    settings: CertifySettings,
    call: arguments.DataCall,
    baseline: arguments.BaselineOpt = None,
    report: arguments.ReportOpt = None,
) -> None:
    """Every image has noise of its own, by its file name. With IMAGEs, --data and --limit choose nothing.

    Examples:
        iqa-armor certify m.safetensors --data csv:labels.csv --limit 20
        iqa-armor certify m.safetensors photo.jpg --method fs --report bounds.html
    """
    from iqa_armor.data.images import EXTENSIONS
    from iqa_armor.files import write_whole
    from iqa_armor.pipeline.certify import build_smoothers, certify_images, forecast_certificates
    from iqa_armor.pipeline.load import load_models
    from iqa_armor.report import certification, page, terminal

    images = [path for path in files if path.is_dir() or path.suffix.lower() in EXTENSIONS]
    named = list(dict.fromkeys(path for path in files if path not in images))
    models, position = arguments.with_baseline(named, baseline)
    if not models:
        raise typer.BadParameter("only images are named; name a MODEL file as well")
    if images and (call.data is not None or settings.limit is not None):
        raise typer.BadParameter("images are named, so there is nothing for --data and --limit to choose")
    build_smoothers(settings)  # a mistyped word should not cost the opening of models and data
    device = call.chosen()
    with call.claimed(report), progress() as bars:
        opened = load_models(models, call)
        source = images or call.open(seed=settings.seed, progress=bars)
        if call.dry_run:
            show_forecasts(forecast_certificates(opened, source, settings, device))
            return
        found = certify_images(opened, source, settings, baseline=position, device=device, progress=bars)
        if report is not None:
            write_whole(report, page.render_page(certification.certification_report(found)))
            say(f"wrote {report}", to=stderr)
    if show_if_json(found.model_dump(mode="json")):
        return
    stdout.print(terminal.TerminalReport(certification.certification_report(found)))
    say_next("evaluate", *named, "--smooth", settings.methods[0], *call.words(arguments.Labels, Opening))
