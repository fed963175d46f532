"""`iqa-armor demo`: the main job on embedded material."""

from pathlib import Path
from typing import Annotated

from rich.console import Console

from iqa_armor.cli.arguments import JsonOpt, Machine, OverwriteOpt, claimed, output_option
from iqa_armor.cli.console import progress, say, show_json, stdout
from iqa_armor.cli.options import options
from iqa_armor.recipe import Recipe

FILES = ("hardened.safetensors", "results.json", "results.txt")


@options(without=set(Recipe.model_fields) - {"backend", "seed"}, usual=("device",))
def demo(
    recipe: Recipe,
    machine: Machine,
    output: Annotated[Path, output_option("DIR")] = Path("iqa-armor-demo"),
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
) -> None:
    """DIR gets the hardened model, the outcome as JSON and the table.

    Examples:
        iqa-armor demo
        iqa-armor demo -o out --backend aol
    """
    from iqa_armor.files import staging
    from iqa_armor.pipeline.demo import run_demo
    from iqa_armor.report.evaluation import evaluation_report
    from iqa_armor.report.terminal import TerminalReport

    device = machine.chosen()
    with claimed(output, overwrite=overwrite, is_folder=True, files=FILES):
        with progress() as bars:
            hardened, evaluation = run_demo(recipe, device=device, progress=bars)
        report = TerminalReport(evaluation_report(evaluation.outcome))
        with staging(output) as folder:
            model, results, shown = (folder / name for name in FILES)
            hardened.save(model)
            results.write_text(evaluation.outcome.to_json() + "\n", encoding="utf-8")
            with shown.open("w", encoding="utf-8") as file:
                Console(file=file, width=120).print(report)
    if json:
        show_json(evaluation.outcome.model_dump(mode="json"))
        return
    stdout.print(report)
    say(f"wrote {', '.join(FILES)} to {output}")
