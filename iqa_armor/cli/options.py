"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from iqa_armor.data.base import Dataset
    from iqa_armor.pipeline.loading import Opening
    from iqa_armor.progress import Progress

FOREIGN, DEFENSE = "Foreign model files", "Rival defences"

ModelArg = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="An iqa-armor file, a state dict (.pt .pth .pkl .ckpt .th .safetensors) or, with --trust-pickle, a "
        "pickled module.",
    ),
]
ArchOpt = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Architecture of a state dict: a built-in name such as resnet50, timm:NAME, pyiqa:NAME (licensed for "
        "non-commercial use), package.module:factory or path/file.py:factory. Without it the weights are matched "
        "against the built-in ones.",
        rich_help_panel=FOREIGN,
    ),
]
InputSizeOpt = Annotated[
    str | None,
    typer.Option(
        metavar="HEIGHTxWIDTH",
        help="Size images are resized to before the network, or 'own' to keep theirs. [default: 498x664]",
        rich_help_panel=FOREIGN,
    ),
]
MeanOpt = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Mean of the normalisation. [default: ImageNet's]", rich_help_panel=FOREIGN),
]
StdOpt = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Divisor of the normalisation. [default: ImageNet's]", rich_help_panel=FOREIGN),
]
InterpolationOpt = Annotated[
    Literal["nearest", "nearest-exact", "bilinear", "bicubic"] | None,
    typer.Option(help="Resampling of the resize. [default: bilinear, antialiased]", rich_help_panel=FOREIGN),
]
ScoreRangeOpt = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Range of the model's scores on clean training images; otherwise measured there.",
        rich_help_panel=FOREIGN,
    ),
]
LowerOpt = Annotated[
    bool,
    typer.Option("--lower-is-better", help="Small scores mean good quality.", rich_help_panel=FOREIGN),
]
TrustOpt = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Open a file although it may run its author's code. Only for authors you trust.",
        rich_help_panel=FOREIGN,
    ),
]
DataOpt = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SPEC",
        help="koniq10k:DIR, kadid10k:DIR, live:DIR, spaq:DIR, clive:DIR, csv:FILE (columns image, mos, optional "
        "split), nips2017:DIR, folder:DIR or synthetic. "
        "[default: koniq10k: at the folder named by IQA_ARMOR_KONIQ10K]",
    ),
]
DefenseOpt = Annotated[
    Literal["none", "nt", "at"] | None,
    typer.Option(
        help="Way of training: nt penalises the gradient of the score by the pixels, at attacks half of each batch "
        "and lowers its labels by what SSIM says. [default: none]",
        rich_help_panel=DEFENSE,
    ),
]
NtWeightOpt = Annotated[
    float | None,
    typer.Option(help="Factor of nt's penalty, for scores of unit spread. [default: 0.001]", rich_help_panel=DEFENSE),
]
NtStepOpt = Annotated[
    float | None,
    typer.Option(
        help="Step of nt's difference, pixels being in 0..1; 0 takes the gradient itself, by double backward. "
        "[default: 0.01]",
        rich_help_panel=DEFENSE,
    ),
]
AtEpsilonOpt = Annotated[
    float | None,
    typer.Option(help="Radius and step of at's attack, in 1/255. [default: 4]", rich_help_panel=DEFENSE),
]
ActivationOpt = Annotated[
    Literal["keep", "elu", "silu", "gelu", "sqish"] | None,
    typer.Option(help="What takes the place of ReLU, ReLU6 and leaky ReLU. [default: keep]", rich_help_panel=DEFENSE),
]
ActivationScopeOpt = Annotated[
    Literal["all", "new"] | None,
    typer.Option(
        help="Whether in all layers or, with train --weights, only behind those that FILE has no weights for. "
        "[default: all]",
        rich_help_panel=DEFENSE,
    ),
]
DeviceOpt = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
PURIFY_HELP = (
    "flip, rotate, crop, resize, blur, median, unsharp, jpeg, diffjpeg, quantize, noise, fcn, diffusion or file, with "
    "settings as in jpeg:quality=60; + chains them."
)
SMOOTH_HELP = "ms, rs, dms, drs or fs, with settings as in ms:samples=100,sigma=0.12."
ThreatOpt = Annotated[
    Literal["adaptive", "bare"],
    typer.Option(help="Whether attacks know the defense, or fool the bare model."),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout and nothing else there.")]


def opening_of(params: Mapping[str, Any]) -> Opening:
    """Return how a foreign model is opened, from a command's parameters by name.

    Raises:
        typer.BadParameter: If a text is not what its option takes.
    """
    from iqa_armor.pipeline.loading import Opening

    given = {name: params.get(name) for name in ("input_size", "interpolation", "mean", "std", "score_range")}
    preprocessing: dict[str, Any] = {}
    if given["input_size"] is not None:
        preprocessing["size"] = size_of(given["input_size"])
    if given["interpolation"] is not None:
        preprocessing["interpolation"] = given["interpolation"]
    for name in ("mean", "std"):
        text = given[name]
        if text is not None:
            preprocessing[name] = numbers_of(text, count=3, option=f"--{name}")
    span = given["score_range"]
    low_high = None if span is None else numbers_of(span, count=2, option="--score-range")
    return Opening(
        arch=params.get("arch"),
        preprocessing=preprocessing,
        score_range=None if low_high is None else (low_high[0], low_high[1]),
        lower_is_better=params.get("lower_is_better", False),
        trust_pickle=params.get("trust_pickle", False),
    )


def size_of(text: str, *, option: str = "--input-size") -> tuple[int, int] | None:
    """Return (height, width) of a text such as 498x664, or None for "own"."""
    if text == "own":
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{option} takes HEIGHTxWIDTH, e.g. 498x664, or 'own'; got {text!r}")
    return int(parts[0]), int(parts[1])


def numbers_of(text: str, *, count: int | None, option: str) -> tuple[float, ...]:
    """Return the comma-separated numbers of a text."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes numbers separated by commas, got {text!r}") from error
    if count is not None and len(values) != count:
        raise typer.BadParameter(f"{option} takes {count} numbers, got {len(values)} in {text!r}")
    return values


def open_data(spec: str | None, *, seed: int, progress: Progress) -> Dataset:
    """Return the named dataset, or KonIQ-10k at the place that the environment names."""
    from iqa_armor.data import default_spec, open_dataset

    return open_dataset(
        spec or default_spec(),
        seed=seed,
        on_progress=lambda done, total: progress("generating images", done, total),
    )
