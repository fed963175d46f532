"""`iqa-armor export`: a model as a file that runs without this package."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from iqa_armor.cli import arguments
from iqa_armor.cli.console import progress, say, say_next, show_forecasts, show_if_json
from iqa_armor.cli.options import options
from iqa_armor.errors import UsageError
from iqa_armor.export import FORMATS
from iqa_armor.pipeline.settings import Opening
from iqa_armor.settings import CallSettings, Flag

if TYPE_CHECKING:
    from iqa_armor.export.onnx import Precision
    from iqa_armor.export.write import Exported
    from iqa_armor.models.base import QualityModel


class Bits(CallSettings):
    """In how many bits numbers are stored, and what that may cost."""

    int8: bool = False
    fp16: bool = False
    count: Annotated[int, Flag(("--images",))] = Field(64, ge=3)
    max_loss: float = Field(0.02, ge=0)


@options(without={"device"}, usual=Bits.model_fields)
def export(
    model: arguments.ModelArg,
    output: Annotated[Path, arguments.output_option("|".join(f"OUT.{name}" for name in FORMATS))],
    bits: Bits,
    call: arguments.DataCall,
) -> None:
    """The suffix of OUT says the format; ONNX needs the extra 'onnx', and alone can be stored in fewer bits.

    Examples:
        iqa-armor export model-hardened.safetensors -o model.onnx
        iqa-armor export model.safetensors -o small.onnx --int8 --data csv:labels.csv
    """
    import torch

    from iqa_armor.export.capture import format_of
    from iqa_armor.export.onnx import ATTACK, ATTACKED, Smaller
    from iqa_armor.export.write import OWN_SIZE, export_model
    from iqa_armor.pipeline.forecast import forecast

    files, count, is_smaller = format_of(output).files(output), bits.count, bits.int8 or bits.fp16
    if bits.int8 and bits.fp16:
        raise UsageError("--int8 and --fp16 exclude each other")
    with ExitStack() as held:
        for file in files:
            held.enter_context(call.claimed(file, source=model))
        bars = held.enter_context(progress())
        opened, smaller = call.load(model), None
        if call.dry_run:  # what it takes to compare the file with the model
            steps = 2 * ATTACK.steps * min(ATTACKED, count) / count * is_smaller
            image = torch.zeros(3, *(opened.preprocessing.size or OWN_SIZE))
            found = forecast(opened, image, device=torch.device("cpu"), images=count, calls=2, gradients=steps)
            show_forecasts([found])
            return
        if is_smaller:
            kind: Precision = "int8" if bits.int8 else "fp16"
            made = Smaller.on(opened, call.open(progress=bars), kind, limit=count)
            smaller = replace(made, max_loss=bits.max_loss, progress=bars)
        bars("exporting", 0, 1)
        exported = export_model(opened, output, smaller=smaller)
        bars("exporting", 1, 1)
    if show_if_json(exported.as_plain(opened)):
        return
    _show(opened, exported)
    say_next("bench", model, *call.words(Opening))


def _show(model: QualityModel, exported: Exported) -> None:
    check, used = exported.check, model.preprocessing
    height, width = (side or name for side, name in zip(exported.size, "HW", strict=True))
    say(f"accepts: images (N, 3, {height}, {width}), float32 in [0, 1], any N; gives scores (N,)")
    if exported.fixed_because:
        say(f"the image size is fixed: {exported.fixed_because}")
    if used.size is not None:
        say("resize images to {}x{} ({}) before; normalisation is inside".format(*used.size, used.interpolation))
    against = "their spread" if check.range_measured_here else "the score range"
    error = f"{check.largest_error:.2g}, {check.share_of_range:.2g} of {against}"
    say(f"compared on {check.images} images: off by at most {error}")
    if (loss := exported.loss) is not None:
        (model_gain, file_gain), apart = loss.gains, f"{abs(loss.srocc):.3f}"
        ranked = "the same" if float(apart) == 0 else f"{'lower' if loss.srocc > 0 else 'higher'} by {apart}"
        told = f"{loss.precision}: on {loss.images} images off by {loss.error:.2%} of the range in the mean"
        gained = f"an attack gains {file_gain:.2%} of the range (model: {model_gain:.2%})"
        say(f"{told}, rank correlation {ranked}, {gained}")
    say(f"wrote {exported.path} ({exported.format}, {exported.size_bytes / 2**20:.1f} MiB)")
