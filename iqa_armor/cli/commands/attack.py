"""`iqa-armor attack`: attacked images as files."""

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from iqa_armor.cli import arguments
from iqa_armor.cli.console import SCALE_NOTE, progress, say, say_next, show_forecasts, show_if_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.settings import Opening
from iqa_armor.settings import LEVELS, Attacks, Direction, SettingsModel

HEADINGS = ("file", "clean", "attacked", "gain", "L∞·255", "PSNR", "SSIM")
NUMBERS = "{0.clean_score:.4f} {0.attacked_score:.4f} {0.gain:+.4f} {0.linf:.2f} {0.psnr:.1f} {0.ssim:.4f}"


class AttackSettings(SettingsModel):
    """Attacks, their budget and direction."""

    attacks: Attacks = ("pgd8",)
    epsilon: float = Field(4.0, ge=0, le=LEVELS)
    direction: Direction = 1


@options(without={"lower_is_better"}, usual=("attacks", "epsilon", "direction", "device"))
def attack(
    model: arguments.ModelArg,
    images: arguments.ImagesArg,
    output: Annotated[Path, arguments.output_option("DIR")],
    attacks: AttackSettings,
    defenses: arguments.Defenses,
    call: arguments.ModelCall,
    draws: arguments.Draws,
) -> None:
    """DIR gets the images and attacks.csv. Fitted attacks learn from IMAGEs.

    Clean scores are those of the images as MODEL sees them, attacked scores those of the written files.

    Examples:
        iqa-armor attack model.pt photo.jpg -o attacked
        iqa-armor attack model.pt photos/ -o out --attack apgd:steps=20 --epsilon 2
    """
    from iqa_armor.data.images import read_image
    from iqa_armor.pipeline.attack import TABLE, attack_images, build_attacks
    from iqa_armor.pipeline.forecast import forecast, steps_of
    from iqa_armor.pipeline.score import find_images

    device = call.chosen()
    built = build_attacks(attacks.attacks, epsilon=attacks.epsilon / LEVELS, direction=attacks.direction)
    with call.claimed(output, is_folder=True), progress() as bars:
        defended = defenses.around(call.load(model))
        if call.dry_run:
            files = find_images(images)
            calls, steps = 1 + len(built), sum(map(steps_of, built.values()))
            image, count = defended.prepare(read_image(files[0])), len(files)
            found = forecast(defended, image, device=device, images=count, calls=calls, gradients=steps, batch_size=1)
            show_forecasts([found])
            return
        run = partial(attack_images, attacks=built, seed=draws.seed, device=device, progress=bars)
        done = run(defended, images, output, overwrite=call.overwrite)
    facts = {"model": defended.name, "direction": attacks.direction, "seed": draws.seed, "table": str(output / TABLE)}
    if show_if_json({**facts, "images": [entry.as_row() for entry in done]}):
        return
    rows = ([entry.file, *NUMBERS.format(entry).split()] for entry in done)
    show_table(HEADINGS, rows, caption=SCALE_NOTE.format(defended.scale) if defended.scale else None)
    say(f"wrote {len(done)} images and {TABLE} to {output}")
    words = [word for each in attacks.attacks for word in ("--attack", each)]
    say_next("evaluate", model, "--data", "csv:labels.csv", *words, *call.words(Opening))
