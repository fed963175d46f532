"""`iqa-armor train`: plain supervised training of an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from iqa_armor.cli.commands.harden import check_target
from iqa_armor.cli.console import progress, show_json, stdout
from iqa_armor.cli.options import (
    ActivationOpt,
    ActivationScopeOpt,
    AtEpsilonOpt,
    DataOpt,
    DefenseOpt,
    DeviceOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    MeanOpt,
    NtStepOpt,
    NtWeightOpt,
    StdOpt,
    TrustOpt,
    open_data,
    opening_of,
)


def train(
    context: typer.Context,
    arch: Annotated[
        str,
        typer.Argument(
            metavar="ARCH",
            help="A built-in name such as resnet18, package.module:factory, path/file.py:factory, or a model file to "
            "train further.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="File to write.")] = Path(
        "trained.safetensors"
    ),
    data: DataOpt = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Pretrained checkpoint: tensors whose name and shape fit are taken, the others start anew.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 6,
    learning_rate: Annotated[float, typer.Option(help="Peak step size of AdamW.")] = 3e-4,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 8,
    loss: Annotated[
        Literal["norm-in-norm", "plcc", "mse", "plcc+mse"], typer.Option(help="What is minimised.")
    ] = "plcc+mse",
    precision: Annotated[Literal["no", "bf16", "fp16"], typer.Option(help="Mixed precision.")] = "no",
    defense: DefenseOpt = None,
    nt_weight: NtWeightOpt = None,
    nt_step: NtStepOpt = None,
    at_epsilon: AtEpsilonOpt = None,
    activation: ActivationOpt = None,
    activation_scope: ActivationScopeOpt = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same command.")] = False,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    trust_pickle: TrustOpt = False,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Train ARCH on scored images and write it as one self-contained file."""
    from iqa_armor.pipeline import supervised
    from iqa_armor.pipeline.fitting import Options
    from iqa_armor.pipeline.loading import start_model
    from iqa_armor.recipe import Training, make_training
    from iqa_armor.training import is_main_process

    check_target(output, Path(arch))
    given = {name: value for name in Training.model_fields if (value := context.params.get(name)) is not None}
    settings = make_training(given)
    checkpoint = output.with_name(f".{output.stem}.resume.pt")
    with progress() as bars:
        start = start_model(arch, opening=opening_of(context.params), weights=weights, seed=seed)
        dataset = open_data(data, seed=seed, progress=bars)
        options = Options(device=device, checkpoint=checkpoint, resume=resume, progress=bars)
        result = supervised.train(start.model, dataset, settings, options=options, fresh=start.fresh)
        if not is_main_process():
            return
        result.model.name = output.stem
        result.save(output)
    checkpoint.unlink(missing_ok=True)
    if json:
        scale = result.model.scale
        span = None if scale is None else [scale.low, scale.high]
        show_json({"output": str(output), "score_range": span, **result.provenance})
        return
    table = Table(title=f"{arch} on {dataset.spec}")
    for heading in ("epoch", "loss", "held-out SROCC", "held-out PLCC", "seconds"):
        table.add_column(heading, justify="right")
    for epoch in result.fit.epochs:
        mark = " *" if epoch.number == result.fit.best else ""
        loss_shown = f"{epoch.loss:.4f}" if epoch.number else "-"
        numbers = (loss_shown, f"{epoch.srocc:.3f}", f"{epoch.plcc:.3f}", f"{epoch.seconds:.1f}")
        table.add_row(f"{epoch.number}{mark}", *numbers)
    stdout.print(table)
    if result.fit.epochs[result.fit.best].srocc < result.fit.epochs[0].srocc:
        stdout.print("warning: no epoch agrees with opinion as well as the network did before training", markup=False)
    stdout.print(f"wrote {output} (epoch {result.fit.best})", markup=False, soft_wrap=True)
