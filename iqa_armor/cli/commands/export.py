"""`iqa-armor export`: a model as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iqa_armor.cli.commands.harden import check_place
from iqa_armor.cli.console import show_json, stdout
from iqa_armor.cli.options import (
    ArchOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    LowerOpt,
    MeanOpt,
    ModelArg,
    ScoreRangeOpt,
    StdOpt,
    TrustOpt,
    opening_of,
)
from iqa_armor.export import FORMATS

if TYPE_CHECKING:
    from iqa_armor.export.write import Exported
    from iqa_armor.models.base import QualityModel


def export(
    context: typer.Context,
    model: ModelArg,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help=f"{' or '.join(f'OUT.{name} ({entry.says})' for name, entry in FORMATS.entries.items())}.",
        ),
    ],
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    score_range: ScoreRangeOpt = None,
    lower_is_better: LowerOpt = False,
    trust_pickle: TrustOpt = False,
    json: JsonOpt = False,
) -> None:
    """Export MODEL to ONNX or torch.export, and keep the file only where it scores as MODEL does."""
    from iqa_armor.export.formats import format_of
    from iqa_armor.export.write import export_model
    from iqa_armor.pipeline.loading import load_model

    format_of(output)
    check_place(output, model)
    opened = load_model(model, opening=opening_of(context.params))
    exported = export_model(opened, output)
    if json:
        show_json(as_plain(opened, exported))
        return
    _show(opened, exported)


def as_plain(model: QualityModel, exported: Exported) -> dict[str, Any]:
    """Return an export's outcome as plain values for JSON."""
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
    stdout.print(
        f"accepts: images (N, 3, {height}, {width}), float32 in [0, 1], any N; gives scores (N,)", markup=False
    )
    if exported.fixed_because:
        stdout.print(f"the image size is fixed: {exported.fixed_because}", markup=False, soft_wrap=True)
    if used.size is not None:
        resize = "{}x{}".format(*used.size)
        stdout.print(f"resize images to {resize} ({used.interpolation}) before; normalisation is inside", markup=False)
    against = "their spread" if check.measured else "the score range"
    stdout.print(
        f"compared on {check.images} images: off by at most {check.largest_error:.2g}, {check.share:.2g} of {against}",
        markup=False,
    )
    stdout.print(
        f"wrote {exported.path} ({exported.format}, {exported.size_bytes / 2**20:.1f} MiB)",
        markup=False,
        soft_wrap=True,
    )
