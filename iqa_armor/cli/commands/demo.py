"""`iqa-armor demo`: the main job on embedded material."""

from pathlib import Path
from typing import Annotated

from rich.console import Console

from iqa_armor.cli.arguments import JsonOpt, Machine, output_option
from iqa_armor.cli.console import progress, say, show_json, stdout
from iqa_armor.cli.options import options
from iqa_armor.recipe import Recipe


@options(without=set(Recipe.model_fields) - {"backend", "seed"}, usual=("device",))
def demo(
    recipe: Recipe,
    machine: Machine,
    output: Annotated[Path, output_option("DIR")] = Path("iqa-armor-demo"),
    json: JsonOpt = False,
) -> None:
    """DIR gets the hardened model, the outcome as JSON and the table.

    Examples:
        iqa-armor demo
        iqa-armor demo -o out --backend aol
    """
    from iqa_armor.errors import UsageError
    from iqa_armor.files import staging
    from iqa_armor.pipeline.demo import run_demo
    from iqa_armor.report.evaluation import evaluation_report
    from iqa_armor.report.terminal import TerminalReport

    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder with -o")
    device = machine.chosen()
    with progress() as bars:
        hardened, evaluation = run_demo(recipe, device=device, progress=bars)
    report = TerminalReport(evaluation_report(evaluation.outcome))
    with staging(output) as folder:
        hardened.save(folder / "hardened.safetensors")
        (folder / "results.json").write_text(evaluation.outcome.to_json() + "\n", encoding="utf-8")
        with (folder / "results.txt").open("w", encoding="utf-8") as file:
            Console(file=file, width=120).print(report)
    if json:
        show_json(evaluation.outcome.model_dump(mode="json"))
        return
    stdout.print(report)
    say(f"wrote hardened.safetensors, results.json and results.txt to {output}")
