"""`iqa-armor info`: who made a model file."""

from iqa_armor.cli.arguments import ModelArg
from iqa_armor.cli.console import say, say_next, show_if_json
from iqa_armor.cli.options import options


@options()
def info(model: ModelArg) -> None:
    """What the file records is joined by the card beside it, which has date, command line and source file.

    Examples:
        iqa-armor info model-hardened.safetensors
        iqa-armor info model-hardened.safetensors --json
    """
    from iqa_armor.pipeline.card import describe_file
    from iqa_armor.pipeline.hub import fetched

    known = describe_file(fetched(model))
    if show_if_json(known):
        return
    run, made = known["run"] or {}, known["provenance"]
    facts = {name: known[name] for name in ("name", "arch", "sha256", "bytes", "values")} | run
    for part in ("source", "data"):
        facts |= {f"{part}.{name}": value for name, value in (made.get(part) or {}).items()}
    facts |= {"score range": known["score_scale"], "versions": made.get("versions")}
    facts |= {f"held-out SROCC, {step}": f"{value:.3f}" for step, value in (made.get("held_out_srocc") or {}).items()}
    facts |= {f"recipe.{name}": value for name, value in known["recipe"].items()}
    width = max(map(len, facts))
    say(str(known["file"]))
    for name, value in facts.items():
        told = ", ".join(f"{part} {each}" for part, each in value.items()) if isinstance(value, dict) else value
        say(f"  {name:{width}}  {'–' if told is None else told}")
    if not run:
        say("no card stands beside it, so date and command line are not known")
    say_next("card", model)
