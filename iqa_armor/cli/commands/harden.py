"""`iqa-armor harden`: surgery, pruning, fine-tuning, one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iqa_armor.cli.arguments import (
    DataOpt,
    JsonOpt,
    Machine,
    ModelArg,
    OverwriteOpt,
    ResumeOpt,
    claimed,
    open_data,
    output_option,
)
from iqa_armor.cli.console import COMMAND, progress, say, show_json, show_table, stderr
from iqa_armor.cli.options import options
from iqa_armor.machine import is_main_process
from iqa_armor.pipeline.opening import Opening
from iqa_armor.recipe import Recipe

if TYPE_CHECKING:
    from iqa_armor.pipeline.harden import Hardened


@options(without={"score_range"}, usual=("backend", "position", "prune", "epochs", "device"))
def harden(
    model: ModelArg,
    settings: Recipe,
    opening: Opening,
    machine: Machine,
    output: Annotated[Path | None, output_option("OUT", shown="MODEL-hardened.safetensors beside MODEL")] = None,
    data: DataOpt = None,
    overwrite: OverwriteOpt = False,
    resume: ResumeOpt = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Operate and show the outcome; train and write nothing.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """MODEL stays as it is. A state dict may need --arch (see --help-all).

    Examples:
        iqa-armor harden model.pt --data csv:labels.csv
        iqa-armor harden model.pt --data csv:labels.csv --dry-run
        iqa-armor harden other.pt --data csv:l.csv --recipe hardened.safetensors
    """
    from iqa_armor.pipeline import harden as hardening
    from iqa_armor.pipeline.card import write_card
    from iqa_armor.pipeline.fitting import RunOptions
    from iqa_armor.pipeline.load import load_model

    target = output or model.with_name(f"{model.stem}-hardened.safetensors")
    checkpoint = None if dry_run else target.with_name(f".{target.stem}.resume.pt")
    device, claim = machine.chosen(), None if dry_run else target
    with claimed(claim, overwrite=overwrite, source=model, suffix=".safetensors"), progress() as bars:
        original = load_model(model, opening=opening)
        dataset = open_data(data, seed=settings.seed, progress=bars)
        how = RunOptions(device=device, checkpoint=checkpoint, resume=resume, progress=bars)
        run = hardening.plan if dry_run else hardening.harden
        result = run(original, dataset, settings, options=how)
        if not is_main_process():
            return
        if not dry_run:
            result.save(target)
            write_card(target, command=COMMAND.get(), source=model)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    if json:
        show_json({"output": None if dry_run else str(target), **result.as_plain()})
        return
    _show(result, synthetic=dataset.is_synthetic)
    if dry_run:
        say("dry run: nothing was trained or written", to=stderr)
        return
    say(f"wrote {target}")
    say("next: iqa-armor evaluate shows what this bought; hardening is a claim until attacks have been run")


def _show(result: Hardened, *, synthetic: bool) -> None:
    rows = ((step, f"{value:.3f}") for step, value in result.srocc.items())
    title = f"{result.model.name}, step by step"
    show_table(("step", "SROCC on held-out training images"), rows, title=title)
    for block in result.blocks:
        place = f"{block.channels} channels, {block.size[0]}x{block.size[1]}"
        say(f"block: {result.recipe.backend}, behind {block.node} ({place})")
    if result.pruned is not None:
        before, after = result.pruned.parameters
        source = f", by {result.pruned.samples} scored training images" if result.pruned.samples else ""
        say(
            f"pruned: {result.pruned.share:.1%} of the channels (rounded to {result.pruned.round_to}), "
            f"{before / 1e6:.2f} M → {after / 1e6:.2f} M parameters{source}"
        )
    for proof in result.provenance["checks"]:
        apart, limit = proof["difference"], proof["tolerance"]
        found = "not comparable" if apart is None else f"scores {apart:.0e} of their spread apart, limit {limit:.0e}"
        say(f"check: {proof['step']}: {found}")
    scale = result.model.scale
    if scale is not None:
        say(f"score range on training images: {scale.low:.4g} to {scale.high:.4g}")
    if synthetic:
        say("fine-tuned on synthetic images with computed scores, not on human opinion")
