"""`iqa-armor harden`: surgery, pruning, fine-tuning, one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from iqa_armor.cli.console import progress, show_json, stderr, stdout
from iqa_armor.cli.options import (
    ActivationOpt,
    ActivationScopeOpt,
    ArchOpt,
    AtEpsilonOpt,
    DataOpt,
    DefenseOpt,
    DeviceOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    LowerOpt,
    MeanOpt,
    ModelArg,
    NtStepOpt,
    NtWeightOpt,
    StdOpt,
    TrustOpt,
    open_data,
    opening_of,
)

if TYPE_CHECKING:
    from iqa_armor.pipeline.hardening import Hardened

SURGERY, TUNING = "Surgery", "Fine-tuning"


def harden(
    context: typer.Context,
    model: ModelArg,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="[default: MODEL-hardened.safetensors beside MODEL]"),
    ] = None,
    data: DataOpt = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="R.toml", help="Settings in TOML; options given here win.")
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(
            metavar="last|N|NODE|none",
            help="Where the block stands; none only prunes and fine-tunes. [default: last]",
            rich_help_panel=SURGERY,
        ),
    ] = None,
    backend: Annotated[
        Literal["cayley", "aoc", "aol"] | None,
        typer.Option(help="Orthogonal convolution of the block. [default: cayley]", rich_help_panel=SURGERY),
    ] = None,
    init: Annotated[
        Literal["random", "identity"] | None,
        typer.Option(
            help="First weights of the block; identity keeps the model's scores nearly as they are. [default: random]",
            rich_help_panel=SURGERY,
        ),
    ] = None,
    pool: Annotated[
        Literal["square", "none"] | None,
        typer.Option(help="Whether the block pools maps to squares. [default: square]", rich_help_panel=SURGERY),
    ] = None,
    taps: Annotated[
        Literal["all", "trunk"] | None,
        typer.Option(
            help="Whether side readers of the tensor read the protected one. [default: all]", rich_help_panel=SURGERY
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(help="Share of the channels to remove. [default: 0.10]", rich_help_panel=SURGERY),
    ] = None,
    criterion: Annotated[
        Literal["l1", "l2", "pls", "distilled-pls", "hsic", "random"] | None,
        typer.Option(
            help="Importance that decides which go: size of the weights (l1, l2), what 200 scored training images say "
            "(pls, hsic; distilled-pls, which ranks across layers), or chance (random). [default: l2]",
            rich_help_panel=SURGERY,
        ),
    ] = None,
    prune_global: Annotated[
        bool | None,
        typer.Option(
            "--prune-global/--prune-local",
            help="Rank channels across layers or within each. [default: prune-local]",
            rich_help_panel=SURGERY,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="[default: 5]", rich_help_panel=TUNING)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[default: 0.0001]", rich_help_panel=TUNING)] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 8]", rich_help_panel=TUNING)] = None,
    loss: Annotated[
        Literal["norm-in-norm", "plcc", "mse", "plcc+mse"] | None,
        typer.Option(help="[default: plcc+mse]", rich_help_panel=TUNING),
    ] = None,
    precision: Annotated[
        Literal["no", "bf16", "fp16"] | None,
        typer.Option(help="Mixed precision. [default: no]", rich_help_panel=TUNING),
    ] = None,
    defense: DefenseOpt = None,
    nt_weight: NtWeightOpt = None,
    nt_step: NtStepOpt = None,
    at_epsilon: AtEpsilonOpt = None,
    activation: ActivationOpt = None,
    activation_scope: ActivationScopeOpt = None,
    seed: Annotated[int | None, typer.Option(help="[default: 0]", rich_help_panel=TUNING)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same command.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Operate and show the outcome; train and write nothing.")
    ] = False,
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    lower_is_better: LowerOpt = False,
    trust_pickle: TrustOpt = False,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Harden MODEL: splice an orthogonal block in, prune, fine-tune, and write one self-contained file."""
    from iqa_armor.pipeline import hardening
    from iqa_armor.pipeline.fitting import Options
    from iqa_armor.pipeline.loading import load_model
    from iqa_armor.recipe import Recipe, make_recipe, read_recipe
    from iqa_armor.training import is_main_process

    given = {name: value for name, value in context.params.items() if value is not None}
    values = (read_recipe(recipe) if recipe else {}) | {k: v for k, v in given.items() if k in Recipe.model_fields}
    settings = make_recipe(values, source=str(recipe) if recipe else "the command line")
    target = output or model.with_name(f"{model.stem}-hardened.safetensors")
    check_target(target, model)
    checkpoint = None if dry_run else target.with_name(f".{target.stem}.resume.pt")
    with progress() as bars:
        original = load_model(model, opening=opening_of(context.params))
        dataset = open_data(data, seed=settings.seed, progress=bars)
        options = Options(device=device, checkpoint=checkpoint, resume=resume, progress=bars)
        run = hardening.plan if dry_run else hardening.harden
        result = run(original, dataset, settings, options=options)
        if not is_main_process():
            return
        if not dry_run:
            result.save(target)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    _show(result, target=None if dry_run else target, synthetic=dataset.is_synthetic, json=json)


def check_target(target: Path, source: Path) -> None:
    """Refuse an output that could not be written, or would replace the input, before any work is done.

    Raises:
        UsageError: Naming the way out.
    """
    from iqa_armor.errors import UsageError

    if target.suffix != ".safetensors":
        raise UsageError(f"the result is a safetensors file; name it {target.with_suffix('.safetensors')}")
    check_place(target, source)


def check_place(target: Path, source: Path) -> None:
    """Refuse an output of any kind where no file can be, or where the input is.

    Raises:
        UsageError: Naming the way out.
    """
    from iqa_armor.errors import UsageError

    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file in it with -o")
    if source.exists() and target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the model itself; name another file with -o")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist; make it first")


def _show(result: Hardened, *, target: Path | None, synthetic: bool, json: bool) -> None:
    if json:
        show_json({"output": None if target is None else str(target), **as_plain(result)})
        return
    table = Table(title=f"{result.model.name}, step by step", show_header=True)
    table.add_column("step")
    table.add_column("SROCC on held-out training images", justify="right")
    for step, value in result.srocc.items():
        table.add_row(step, f"{value:.3f}")
    stdout.print(table)
    for block in result.blocks:
        stdout.print(
            f"block: {result.recipe.backend}, behind {block.node} ({block.channels} channels, "
            f"{block.size[0]}x{block.size[1]})",
            markup=False,
        )
    if result.pruned is not None:
        before, after = result.pruned.parameters
        stdout.print(
            f"pruned: {result.pruned.share:.1%} of the channels (rounded to {result.pruned.round_to}), "
            f"{before / 1e6:.2f} M → {after / 1e6:.2f} M parameters{_source(result.pruned.samples)}",
            markup=False,
        )
    scale = result.model.scale
    if scale is not None:
        stdout.print(f"score range on training images: {scale.low:.4g} to {scale.high:.4g}", markup=False)
    if synthetic:
        stdout.print("fine-tuned on synthetic images with computed scores, not on human opinion", markup=False)
    if target is None:
        stderr.print("dry run: nothing was trained or written")
        return
    stdout.print(f"wrote {target}", markup=False, soft_wrap=True)
    stdout.print(
        "next: iqa-armor evaluate shows what this bought; hardening is a claim until attacks have been run",
        markup=False,
    )


def _source(samples: int) -> str:
    return f", by {samples} scored training images" if samples else ""


def as_plain(result: Hardened) -> dict[str, Any]:
    """Return a hardening's outcome as plain values for JSON."""
    scale = result.model.scale
    return {
        "name": result.model.name,
        "recipe": result.recipe.model_dump(),
        "score_range": None if scale is None else [scale.low, scale.high],
        **result.provenance,
    }
