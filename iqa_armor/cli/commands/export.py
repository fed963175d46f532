"""`iqa-armor export`: a model as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from iqa_armor.cli.arguments import JsonOpt, Machine, ModelArg, OverwriteOpt, claimed, output_option
from iqa_armor.cli.console import say, say_next, show_json
from iqa_armor.cli.options import options
from iqa_armor.export import FORMATS
from iqa_armor.pipeline.opening import Opening

if TYPE_CHECKING:
    from iqa_armor.export.write import Exported
    from iqa_armor.models.base import QualityModel


@options(without={"device"})
def export(
    model: ModelArg,
    output: Annotated[Path, output_option("|".join(f"OUT.{name}" for name in FORMATS))],
    opening: Opening,
    machine: Machine,
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
) -> None:
    """The suffix of OUT says the format; ONNX needs the extra 'onnx'.

    Examples:
        iqa-armor export model-hardened.safetensors -o model.onnx
    """
    from iqa_armor.export.formats import format_of
    from iqa_armor.export.write import export_model
    from iqa_armor.pipeline.load import load_model

    format_of(output)
    with claimed(output, overwrite=overwrite, source=model):
        opened = load_model(model, opening=opening)
        exported = export_model(opened, output)
    if json:
        show_json(_as_plain(opened, exported))
        return
    _show(opened, exported)
    say_next("bench", model, *opening.words())


def _as_plain(model: QualityModel, exported: Exported) -> dict[str, Any]:
    from iqa_armor.export.write import described

    check = exported.check
    return {
        "output": str(exported.path),
        "kind": exported.format,
        "bytes": exported.size_bytes,
        "size_fixed_because": exported.fixed_because or None,
        "metadata": described(model, exported.size),
        "check": {
            "largest_error": check.largest_error,
            "share_of_range": check.share,
            "range": check.width,
            "range_measured_here": check.measured,
            "images": check.images,
            "batches": list(check.batches),
            "sizes": [list(size) for size in check.sizes],
        },
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
    against = "their spread" if check.measured else "the score range"
    error = f"{check.largest_error:.2g}, {check.share:.2g} of {against}"
    say(f"compared on {check.images} images: off by at most {error}")
    say(f"wrote {exported.path} ({exported.format}, {exported.size_bytes / 2**20:.1f} MiB)")
