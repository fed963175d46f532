"""`iqa-armor train-purifier`: a filter that undoes attacks of a model."""

from pathlib import Path
from typing import Annotated

from iqa_armor.cli import arguments
from iqa_armor.cli.console import RESUME, going_on, progress, say, say_next, show_forecasts, show_if_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.settings import Opening
from iqa_armor.training.filter_settings import PurifierSettings


@options(usual=("attacks", "epsilons", "epochs", "device"))
def train_purifier(
    model: arguments.ModelArg,
    settings: PurifierSettings,
    call: arguments.FitCall,
    output: Annotated[Path, arguments.output_option("OUT")] = Path("fcn.safetensors"),
    resume: arguments.ResumeOpt = False,
) -> None:
    """The attacks are those of MODEL without a filter; images take turns with them, their budgets and directions.

    A tenth of the training images is held out: it chooses the epoch, and the figures shown are taken on it. Attacked
    versions of the others are kept in memory.

    Examples:
        iqa-armor train-purifier model.pt --data csv:labels.csv -o fcn.safetensors
        iqa-armor evaluate m.pt --data csv:l.csv --purify fcn:path=fcn.safetensors
    """
    from iqa_armor.files import discard
    from iqa_armor.pipeline.fitting import RunOptions
    from iqa_armor.pipeline.train import forecast_purifier, train_purifier

    device, checkpoint = call.chosen(), None if call.dry_run else output.with_name(f".{output.stem}.resume.pt")
    with call.claimed(output, source=model, suffix=".safetensors"), going_on(RESUME, checkpoint), progress() as bars:
        opened = call.load(model)
        dataset = call.open(seed=settings.seed, progress=bars)
        if call.dry_run:
            show_forecasts(forecast_purifier(opened, dataset, settings, device))
            return
        how = RunOptions(device=device, checkpoint=checkpoint, resume=resume, progress=bars, log_to=call.log_to)
        result = train_purifier(opened, dataset, settings, options=how)
        result.save(output)
        discard(checkpoint)
    if show_if_json({"output": str(output), **result.provenance}):
        return
    rows, fit, undone, figures = [], result.fitted, result.undone, []
    for each in fit.epochs:
        mark, loss = " *" * (each.number == fit.best), f"{each.loss:.6f}" if each.number else "-"
        rows.append((f"{each.number}{mark}", loss, f"{each.held_out:.6f}", f"{each.psnr:.2f}", f"{each.seconds:.1f}"))
    headings = ("epoch", "loss", "held-out loss", "held-out PSNR", "seconds")
    show_table(headings, rows, title=f"{opened.name} on {dataset.spec}")
    for name, state in (("attacked", "before"), ("attacked, filtered", "after"), ("clean, filtered", "clean")):
        quality = f"{undone[f'quality_{state}']:.4f}" if state != "clean" else ""
        figures.append((name, f"{undone[f'psnr_{state}']:.2f}", quality, f"{undone[f'gain_{state}']:.3f}"))
    show_table(("", "PSNR", "quality score", "gain score"), figures, title=f"{undone['images']} held-out images")
    if undone["gain_after"] >= undone["gain_before"]:
        say("warning: the filter undoes none of the attacks' effect on the score")
    say(f"wrote {output} (epoch {fit.best})")
    say_next("evaluate", model, "--purify", f"fcn:path={output}", *call.words(arguments.Labels, Opening))
