"""`iqa-armor demo`: the main job on embedded material."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from iqa_armor.cli.console import progress, show_json, stdout
from iqa_armor.cli.options import DeviceOpt, JsonOpt


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the model, the JSON and the table.")
    ] = Path("iqa-armor-demo"),
    backend: Annotated[
        Literal["cayley", "aoc", "aol"], typer.Option(help="Orthogonal convolution of the block.")
    ] = "cayley",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Harden the small network that iqa-armor ships and attack it, on generated images, in a few minutes."""
    from iqa_armor.errors import UsageError
    from iqa_armor.pipeline.demo import run_demo
    from iqa_armor.recipe import make_recipe
    from iqa_armor.report.evaluation import evaluation_report
    from iqa_armor.report.terminal import TerminalReport

    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder with -o")
    recipe = make_recipe({"backend": backend, "seed": seed})
    with progress() as bars:
        hardened, evaluation = run_demo(recipe, device=device, progress=bars)
    report = TerminalReport(evaluation_report(evaluation.outcome))
    output.mkdir(parents=True, exist_ok=True)
    hardened.save(output / "hardened.safetensors")
    (output / "results.json").write_text(evaluation.outcome.to_json() + "\n", encoding="utf-8")
    with (output / "results.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=120).print(report)
    if json:
        show_json(evaluation.outcome.model_dump(mode="json"))
        return
    stdout.print(report)
    stdout.print(f"wrote hardened.safetensors, results.json and results.txt to {output}", markup=False, soft_wrap=True)
