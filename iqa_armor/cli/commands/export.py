"""`iqa-armor export`: a model as a file that runs without this package."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iqa_armor.cli import arguments
from iqa_armor.cli.console import progress, say, say_next, show_forecasts, show_if_json
from iqa_armor.cli.options import options
from iqa_armor.errors import UsageError
from iqa_armor.export import FORMATS
from iqa_armor.pipeline.settings import Opening

if TYPE_CHECKING:
    from iqa_armor.export.smaller import Precision
    from iqa_armor.export.write import Exported
    from iqa_armor.models.base import QualityModel

MAX_LOSS = typer.Option(
    min=0,
    metavar="X",
    help="Refuse fewer bits that lose more: of the score range, on clean images in the mean or to an attack "
    "beyond what it gains on MODEL, or of the rank correlation.",
)


@options(without={"device"})
def export(
    model: arguments.ModelArg,
    output: Annotated[Path, arguments.output_option("|".join(f"OUT.{name}" for name in FORMATS))],
    call: arguments.DataCall,
    int8: Annotated[
        bool, typer.Option("--int8", help="Store weights and activations in 8 bits, with ranges from training images.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store weights and activations in 16 bits.")] = False,
    count: Annotated[
        int, typer.Option("--images", min=3, metavar="N", help="Images for ranges, and to compare on, with fewer bits.")
    ] = 64,
    max_loss: Annotated[float, MAX_LOSS] = 0.02,
) -> None:
    """The suffix of OUT says the format; ONNX needs the extra 'onnx', and alone can be stored in fewer bits.

    Examples:
        iqa-armor export model-hardened.safetensors -o model.onnx
        iqa-armor export model.safetensors -o small.onnx --int8 --data csv:labels.csv
    """
    import torch

    from iqa_armor.export.capture import format_of
    from iqa_armor.export.smaller import ATTACK, ATTACKED, Smaller
    from iqa_armor.export.write import export_model, natural_size
    from iqa_armor.pipeline.forecast import forecast

    files = format_of(output).files(output)
    if int8 and fp16:
        raise UsageError("--int8 and --fp16 exclude each other")
    with ExitStack() as held:
        for file in files:
            held.enter_context(call.claimed(file, source=model))
        bars = held.enter_context(progress())
        opened, smaller = call.load(model), None
        if call.dry_run:  # what it takes to compare the file with the model
            steps = 2 * ATTACK.steps * min(ATTACKED, count) / count * (int8 or fp16)
            image = torch.zeros(3, *natural_size(opened))
            found = forecast(opened, image, device=torch.device("cpu"), images=count, calls=2, gradients=steps)
            show_forecasts([found])
            return
        if int8 or fp16:
            dataset = call.open(progress=bars)
            precision: Precision = "int8" if int8 else "fp16"
            smaller = Smaller.on(opened, dataset, precision, limit=count, max_loss=max_loss, progress=bars)
        bars("exporting", 0, 1)
        exported = export_model(opened, output, smaller=smaller)
        bars("exporting", 1, 1)
    if show_if_json(_as_plain(opened, exported)):
        return
    _show(opened, exported)
    say_next("bench", model, *call.words(Opening))


def _as_plain(model: QualityModel, exported: Exported) -> dict[str, Any]:
    from iqa_armor.export.write import described

    return ({} if exported.loss is None else {"loss": asdict(exported.loss)}) | {
        "output": str(exported.path),
        "kind": exported.format,
        "bytes": exported.size_bytes,
        "size_fixed_because": exported.fixed_because or None,
        "metadata": described(model, exported.size),
        "check": asdict(exported.check),
    }


def _show(model: QualityModel, exported: Exported) -> None:
    check, used = exported.check, model.preprocessing
    height, width = (side or name for side, name in zip(exported.size, "HW", strict=True))
    say(f"accepts: images (N, 3, {height}, {width}), float32 in [0, 1], any N; gives scores (N,)")
    if exported.fixed_because:
        say(f"the image size is fixed: {exported.fixed_because}")
    if used.size is not None:
        resize = "{}x{}".format(*used.size)
        say(f"resize images to {resize} ({used.interpolation}) before; normalisation is inside")
    against = "their spread" if check.range_measured_here else "the score range"
    error = f"{check.largest_error:.2g}, {check.share_of_range:.2g} of {against}"
    say(f"compared on {check.images} images: off by at most {error}")
    if (loss := exported.loss) is not None:
        (model_gain, file_gain), way = loss.gains, "lower" if loss.srocc > 0 else "higher"
        say(
            f"{loss.precision}: on {loss.images} images off by {loss.error:.2%} of the range in the mean, rank "
            f"correlation {way} by {abs(loss.srocc):.3f}, an attack gains {file_gain:.2%} of the range (model: "
            f"{model_gain:.2%})"
        )
    say(f"wrote {exported.path} ({exported.format}, {exported.size_bytes / 2**20:.1f} MiB)")
