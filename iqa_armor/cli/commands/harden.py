"""`iqa-armor harden`: surgery, pruning, fine-tuning, one file."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from iqa_armor.cli import arguments, console
from iqa_armor.cli.console import COMMAND, JSON, RESUME, going_on, progress, say
from iqa_armor.cli.options import options
from iqa_armor.errors import UsageError
from iqa_armor.pipeline.settings import Opening
from iqa_armor.recipe import Recipe
from iqa_armor.results.requirements import mean_and_spread

if TYPE_CHECKING:
    from iqa_armor.pipeline.hardened import Hardened
    from iqa_armor.pruning.prune import Pruned

SHORT = 0.01  # of all channels: so much less than was asked for is worth a reason


@options(without={"score_range"}, usual=("backend", "position", "prune", "epochs", "device"))
def harden(
    model: arguments.ModelArg,
    settings: Recipe,
    call: arguments.FitCall,
    output: Annotated[Path | None, arguments.output_option("OUT", shown="MODEL-hardened.safetensors")] = None,
    unlabelled: arguments.UnlabelledOpt = None,
    seeds: arguments.SeedsOpt = 1,
    resume: arguments.ResumeOpt = False,
) -> None:
    """MODEL stays as it is. A state dict may need --arch (see --help-all).

    Examples:
        iqa-armor harden model.pt --data csv:labels.csv
        iqa-armor harden model.pt --data csv:labels.csv --dry-run
        iqa-armor harden m.pt --data csv:l.csv --seeds 3 -o 'h{seed}.safetensors'
        iqa-armor harden other.pt --data csv:l.csv --recipe hardened.safetensors
    """
    from iqa_armor.files import discard
    from iqa_armor.pipeline import fitting, forecast, hub
    from iqa_armor.pipeline import harden as hardening

    suffix = f"-{arguments.SEED}" * (seeds > 1) + ("" if hub.on_hub(model) else ".safetensors")
    named = output or model.with_name(f"{model.stem}-hardened{suffix}")
    target, words = hub.local_target(named), call.words(arguments.Labels, Opening)
    if seeds > 1 and not call.dry_run:
        _each(range(settings.seed, settings.seed + seeds), settings, named, model, call, resume=resume)
        _say_next(target, model, ["--seeds", str(seeds), "--seed", str(settings.seed), *words])
        return
    dry_run, device = call.dry_run, call.chosen()
    checkpoint = None if dry_run else target.with_name(f".{target.stem}.resume.pt")
    with call.claimed(target, source=model, suffix=".safetensors"), going_on(RESUME, checkpoint), progress() as bars:
        original, dataset = call.load(model), call.open(seed=settings.seed, progress=bars)
        how = fitting.RunOptions(device=device, checkpoint=checkpoint, resume=resume, progress=bars, log_to=call.log_to)
        more = arguments.Labels().open(unlabelled, seed=settings.seed, progress=bars) if unlabelled else None
        chosen = hardening.untrained(dataset, settings) if dry_run else (dataset, settings)
        result = hardening.harden(original, *chosen, options=how, unlabelled=more)
        image = original.prepare(dataset.training()[0])
        seconds = forecast.slowdown(original, result.model, image, device)
        if not dry_run:
            result.save_all(target, command=COMMAND.get(), source=model, call_seconds=seconds)
            discard(checkpoint)
            hub.push(target, output)
    say(*(f"warning: {warning}" for warning in result.warnings), to=console.stderr)
    plain = {"output": None if dry_run else str(target), "call_seconds": seconds, **result.as_plain()}
    if not JSON.get():
        _show(result, seconds, synthetic=dataset.is_synthetic)
    if dry_run:
        steps = {"images": len(dataset.training()), "epochs": settings.epochs, "batch_size": settings.batch_size}
        console.show_forecasts([forecast.forecast(result.model, image, device=device, **steps)] * seeds, **plain)
        return
    if not console.show_if_json(plain):
        say(f"wrote {target}")
    _say_next(target, model, words)


def _each(seeds: range, settings: Recipe, output: Path, model: Path, call: arguments.FitCall, *, resume: bool) -> None:
    """Run this command with one seed after the other, but for what is finished, and show what the files record."""
    from iqa_armor.artifact.storage import read_metadata
    from iqa_armor.cli import load_command
    from iqa_armor.pipeline.hub import local_target

    words, found, places = COMMAND.get()[2:], dict[str, Any](), arguments.at_seeds(output, seeds)
    files = [*map(local_target, places)]
    for file in files:
        with call.claimed(file, source=model, suffix=".safetensors", resumes=resume):
            pass  # what cannot be written should not cost the first hardening
    for seed, place, file in zip(seeds, places, files, strict=True):
        if not (resume and file.exists()):
            said = [*words, "--seeds", "1", "--seed", str(seed), "--out", str(place)]
            COMMAND.set(("iqa-armor", "harden", *said))
            with going_on(RESUME, files[0]), redirect_stdout(sys.stderr if JSON.get() else sys.stdout):
                load_command("harden").main(said, standalone_mode=False)
        stored: Any = read_metadata(file)
        made = Recipe.read(stored["recipe"])
        chosen = {"backend": made.backend} if settings.backend == "auto" else {}
        if made != settings.model_copy(update={"seed": seed, **chosen}):
            raise UsageError(f"{file} was made by another recipe; replace it with --overwrite, without --resume")
        found[str(file)] = stored["provenance"]["held_out_srocc"]
    mean, spread = mean_and_spread(list(found.values()))
    if console.show_if_json({"seeds": list(seeds), "outputs": list(found), "held_out_srocc": mean, "spread": spread}):
        return
    rows = ((step, f"{mean[step]:.3f}", f"{each:.3f}") for step, each in spread.items())
    title = f"SROCC on held-out training images over seeds {', '.join(map(str, seeds))}"
    console.show_table(("step", "mean", "standard deviation"), rows, title=title)


def _say_next(target: Path, model: Path, words: list[str]) -> None:
    if not JSON.get():
        say("hardening is a claim until attacks have been run")
    console.say_next("evaluate", target, "--baseline", model, *words)


def _show_pruned(pruned: Pruned, asked: float) -> None:
    counts = "{:.2f} M → {:.2f} M".format(*(count / 1e6 for count in pruned.parameters))
    source = f", by {pruned.samples} scored training images" if pruned.samples else ""
    rounded = f"of the convolutions' channels (rounded to {pruned.round_to})"
    say(f"pruned: {pruned.share:.1%} {rounded}, {counts} parameters{source}")
    if pruned.share < asked - SHORT:
        say(f"less than the {asked:.1%} asked for: {pruned.why_less}")


def _show_place(result: Hardened) -> None:
    """Tell where between the start and the end of fine-tuning a model lies that is not at the end."""
    points, share = result.provenance["frontier"], result.recipe.share
    if points:
        cells = [
            (f"{p['share']:.2f}{' *' * p['chosen']}", f"{p['srocc']:.3f}", f"{p['worst_srocc']:.3f}") for p in points
        ]
        headings = ("share of the fine-tuned end", "SROCC", "worst-case SROCC")
        console.show_table(headings, cells, title="Frontier, on held-out training images (* is kept in OUT)")
    elif share < 1 and result.fit.epochs:
        say(f"kept: {share:.0%} of the way from the weights before fine-tuning to those after it")


def _show(result: Hardened, seconds: tuple[float, float], *, synthetic: bool) -> None:
    rows = ((step, f"{value:.3f}") for step, value in result.srocc.items())
    console.show_table(("step", "SROCC on held-out training images"), rows, title=f"{result.model.name}, step by step")
    for block in result.blocks:
        place = f"{block.channels} channels, {block.size[0]}x{block.size[1]}"
        say(f"block: {result.recipe.backend}, behind {block.node} ({place})")
    if result.pruned is not None:
        _show_pruned(result.pruned, result.recipe.prune)
    for proof in result.provenance["checks"]:
        apart, limit = proof["difference"], proof["tolerance"]
        found = "not comparable" if apart is None else f"scores {apart:.0e} of their spread apart, limit {limit:.0e}"
        say(f"check: {proof['step']}: {found}")
    _show_place(result)
    if (scale := result.model.scale) is not None:
        say(f"score range on training images: {scale.low:.4g} to {scale.high:.4g}")
    if synthetic:
        say("fine-tuned on synthetic images with computed scores, not on human opinion")
    before, after = (1000 * each for each in seconds)
    way_out = "" if result.recipe.position == "none" else "; --backend auto would take a cheaper block"
    if result.recipe.views > 1:
        way_out = f"; it looks at {result.recipe.views} views of each, --views 1 at one"
    told = f"{before:.3g} ms → {after:.3g} ms here, {after / before:.2f} times as long"
    say(f"one image: {told}{way_out if after > 1.2 * before else ''}")
