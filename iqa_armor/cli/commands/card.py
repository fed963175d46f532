"""`iqa-armor card`: the model card of a file, as Markdown."""

from pathlib import Path
from typing import Annotated

import typer

from iqa_armor.cli import arguments
from iqa_armor.cli.console import say, say_next, show_if_json, stderr
from iqa_armor.cli.options import options

LICENCE = typer.Option(metavar="TEXT", help="Licence that the card names. \\[default: as its card says, else unknown]")
RESULTS = typer.Option(metavar="FILE", help="Figures of evaluate --json, or its outcome.json.")


@options(without={"dry_run"})
def card(
    model: arguments.ModelArg,
    writing: arguments.Writing,
    results: Annotated[Path | None, RESULTS] = None,
    licence: Annotated[str | None, LICENCE] = None,
    output: Annotated[Path | None, arguments.output_option("OUT.md", shown="stdout")] = None,
) -> None:
    """Without -o it is shown. harden and train write one beside their model.

    Examples:
        iqa-armor card model-hardened.safetensors
        iqa-armor card model.safetensors --results out.json --licence MIT -o README.md
    """
    from iqa_armor.files import write_whole
    from iqa_armor.pipeline.card import card_of, describe_file, read_outcome
    from iqa_armor.pipeline.hub import fetched

    known, outcome = describe_file(fetched(model)), None if results is None else read_outcome(results)
    known["run"] = {**(known["run"] or {}), **({"licence": licence} if licence else {})}
    text = card_of(known, outcome)
    if output is not None:
        with writing.claimed(output):
            write_whole(output, text)
        say(f"wrote {output}", to=stderr)
    if not show_if_json({"card": text, **known}) and output is None:
        say(text.rstrip())
    say_next("export", model, "-o", f"{model.stem}.onnx", to=stderr)
