"""`iqa-armor demo`: the main job on embedded material."""

from pathlib import Path
from typing import Annotated

from iqa_armor.cli.arguments import Machine, Writing, output_option
from iqa_armor.cli.console import in_shell, progress, say, show_if_json, stdout
from iqa_armor.cli.options import options
from iqa_armor.recipe import Recipe

NEXT = (
    "iqa-armor inspect model.pt",
    "iqa-armor harden model.pt --data csv:labels.csv --recipe strong",
    "iqa-armor evaluate model-hardened.safetensors --baseline model.pt --data csv:labels.csv",
)
FILES = ("hardened.safetensors", "results.json", "report.html")


@options(without={*Recipe.model_fields, "dry_run"} - {"seed"}, recipe="fast")
def demo(
    recipe: Recipe,
    machine: Machine,
    writing: Writing,
    output: Annotated[Path, output_option("DIR")] = Path("iqa-armor-demo"),
) -> None:
    """DIR gets the hardened model, the outcome as JSON and a report. The recipe is fast unless another is named.

    Examples:
        iqa-armor demo
        iqa-armor demo -o out --recipe paper
    """
    from iqa_armor.cli.commands.evaluate import page_of
    from iqa_armor.files import staging
    from iqa_armor.pipeline.demo import run_demo
    from iqa_armor.report.verdicts import in_plain_words, ranking_bars

    device = machine.chosen()
    with writing.claimed(output, is_folder=True, files=FILES):
        with progress() as bars:
            hardened, evaluation = run_demo(recipe, device=device, progress=bars)
            page = page_of(evaluation, bars)
        with staging(output) as folder:
            model, results, report = (folder / name for name in FILES)
            hardened.save(model)
            results.write_text(evaluation.outcome.to_json() + "\n", encoding="utf-8")
            report.write_text(page, encoding="utf-8")
    if show_if_json(evaluation.outcome.model_dump(mode="json")):
        return
    say(*ranking_bars(evaluation.outcome), "")
    stdout.print(*in_plain_words(evaluation.outcome), "", sep="\n", markup=False)
    say(f"wrote {', '.join(FILES)} to {output}", "next, for a model of your own:")
    say(*(in_shell("  ", line.split()) for line in NEXT))
