"""`iqa-armor train`: plain supervised training of an architecture."""

from pathlib import Path
from typing import Annotated

import typer

from iqa_armor.cli import arguments, console
from iqa_armor.cli.console import COMMAND, RESUME, going_on, progress, say, show_if_json
from iqa_armor.cli.options import options
from iqa_armor.recipe import TrainSettings

ARCH = (
    "A built-in name such as resnet18, package.module:factory, path/file.py:factory, or a model file to train further."
)
WEIGHTS = "Pretrained checkpoint: tensors whose name and shape fit are taken, the others start anew."


@options(
    without={"arch", "score_range", "lower_is_better"},
    usual=("epochs", "batch_size", "learning_rate", "loss", "device"),
)
def train(
    arch: Annotated[str, typer.Argument(metavar="ARCH", help=ARCH)],
    settings: TrainSettings,
    call: arguments.FitCall,
    output: Annotated[Path, arguments.output_option("OUT")] = Path("trained.safetensors"),
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help=WEIGHTS)] = None,
    resume: arguments.ResumeOpt = False,
) -> None:
    """A tenth of the training images is held out: it chooses the epoch.

    Examples:
        iqa-armor train resnet18 --data csv:labels.csv -o mine.safetensors
        iqa-armor train network.py:make --data csv:labels.csv --weights pretrained.pt
    """
    from iqa_armor.files import discard, staging
    from iqa_armor.pipeline import card, fitting, forecast, hub, load
    from iqa_armor.pipeline import train as training

    place, output, device = output, hub.local_target(output), call.chosen()
    kept = None if call.dry_run else output.with_name(f".{output.stem}.resume.pt")
    with call.claimed(output, source=Path(arch), suffix=".safetensors"), going_on(RESUME, kept), progress() as bars:
        model, fresh = load.start_model(arch, opening=call, weights=weights, seed=settings.seed)
        dataset = call.open(seed=settings.seed, progress=bars)
        if call.dry_run:
            images = dataset.training()
            work = {"images": len(images), "epochs": settings.epochs, "batch_size": settings.batch_size}
            console.show_forecasts([forecast.forecast(model, model.prepare(images[0]), device=device, **work)])
            return
        how = fitting.RunOptions(device=device, checkpoint=kept, resume=resume, progress=bars, log_to=call.log_to)
        result = training.train(model, dataset, settings, options=how, fresh=fresh)
        result.model.name = output.stem
        with staging(output.parent) as folder:
            result.save(folder / output.name)
            card.write_card(folder / output.name, command=COMMAND.get(), source=weights or arch)
        discard(kept)
        hub.push(output, place)
    scale, rows, fit = result.model.scale, [], result.fit
    if show_if_json({"output": str(output), "score_range": scale and [scale.low, scale.high], **result.provenance}):
        return
    for each in fit.epochs:
        mark, loss = " *" * (each.number == fit.best), f"{each.loss:.4f}" if each.number else "-"
        rows.append((f"{each.number}{mark}", loss, f"{each.srocc:.3f}", f"{each.plcc:.3f}", f"{each.seconds:.1f}"))
    headings = ("epoch", "loss", "held-out SROCC", "held-out PLCC", "seconds")
    console.show_table(headings, rows, title=f"{arch} on {dataset.spec}")
    if fit.best == 0 or fit.epochs[fit.best].srocc < fit.epochs[0].srocc:
        say("warning: no epoch agrees with opinion better than the network did before training")
    say(f"wrote {output} (epoch {fit.best})")
    console.say_next("harden", output, *call.words(arguments.Labels))
