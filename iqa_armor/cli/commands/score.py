"""`iqa-armor score`: the quality of images."""

from iqa_armor.cli.arguments import Defenses, Draws, ImagesArg, JsonOpt, Machine, ModelArg
from iqa_armor.cli.console import progress, scale_note, score_span, show_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.opening import Opening


@options(without={"threat", "lower_is_better"}, usual=("device",))
def score(
    model: ModelArg,
    images: ImagesArg,
    defenses: Defenses,
    opening: Opening,
    draws: Draws,
    machine: Machine,
    json: JsonOpt = False,
) -> None:
    """Images are scored one by one: no score depends on the other images.

    Examples:
        iqa-armor score model.pt photo.jpg
        iqa-armor score model.safetensors photos/ --json
    """
    from iqa_armor.pipeline.defended_models import defended_model
    from iqa_armor.pipeline.load import load_model
    from iqa_armor.pipeline.score import score_files

    device = machine.chosen()
    with progress() as bars:
        opened = defended_model(load_model(model, opening=opening), defenses.purify, defenses.smoother)
        scored = score_files(opened, images, device=device, seed=draws.seed, progress=bars)
    if json:
        listed = [{"image": str(path), "score": value} for path, value in scored]
        show_json({"model": opened.name, "score_range": score_span(opened.scale), "images": listed})
        return
    rows = ((str(path), f"{value:.4f}") for path, value in scored)
    show_table(("image", "score"), rows, caption=scale_note(opened.scale))
