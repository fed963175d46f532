"""`iqa-armor inspect`: where a block can stand, and the singular values of those that stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from iqa_armor.cli.console import show_json, stdout
from iqa_armor.cli.options import (
    ArchOpt,
    InputSizeOpt,
    InterpolationOpt,
    JsonOpt,
    MeanOpt,
    ModelArg,
    StdOpt,
    TrustOpt,
    opening_of,
)

if TYPE_CHECKING:
    from iqa_armor.pipeline.inspection import Inspection
    from iqa_armor.pipeline.spectra import BlockSpectrum


def inspect(
    context: typer.Context,
    model: ModelArg,
    arch: ArchOpt = None,
    input_size: InputSizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    interpolation: InterpolationOpt = None,
    trust_pickle: TrustOpt = False,
    json: JsonOpt = False,
) -> None:
    """Show the tensors of MODEL on which a RobustBlock can stand, and the recommended one.

    Of a hardened model, also the measured singular values of its blocks and of the layers behind them.
    """
    from iqa_armor.pipeline.inspection import inspect_model
    from iqa_armor.pipeline.load import load_model

    found = inspect_model(load_model(model, opening=opening_of(context.params)))
    if json:
        show_json(found.as_plain())
        return
    stdout.print(_table(found))
    if found.grids:
        stdout.print(_grid_table(found))
    for spectrum in found.spectra:
        stdout.print(_spectrum_table(spectrum))
    for line in found.remarks:
        stdout.print(line, markup=False)


def _table(found: Inspection) -> Table:
    height, width = found.input_size
    table = Table(title=f"{found.name}: {found.parameters / 1e6:.2f} M parameters, input {height}x{width}")
    for heading in ("position", "node", "channels", "map", "out ÷ in"):
        table.add_column(heading, justify="left" if heading == "node" else "right")
    if found.several_branches:
        table.add_column("branch", justify="right")
    table.add_column("")
    for cut in found.cuts:
        branch: list[Any] = [str(cut.branch + 1)] if found.several_branches else []
        table.add_row(
            str(cut.position),
            cut.node,
            str(cut.channels),
            "{}x{}".format(*cut.size),
            f"{cut.ratio:.3f}",
            *branch,
            "recommended (last)" if cut.node in found.recommended else "",
        )
    return table


def _grid_table(found: Inspection) -> Table:
    table = Table(title="tokens at the end of a transformer's units")
    table.add_column("node", overflow="fold")
    for heading in ("channels", "grid", "further tokens"):
        table.add_column(heading, justify="right")
    table.add_column("module", overflow="fold")
    for grid in found.grids:
        table.add_row(grid.node, str(grid.channels), "{}x{}".format(*grid.size), str(grid.extra), grid.module)
    return table


def _spectrum_table(found: BlockSpectrum) -> Table:
    table = Table(
        title=f"singular values of {found.name} ({found.backend}) and behind it",
        caption=f"orthogonal part: {found.method}; ± is how far a value may be from a singular value"
        + (f"; not measured: {', '.join(found.unmeasured)}" if found.unmeasured else ""),
    )
    table.add_column("layer", overflow="fold")
    for heading in ("map", "largest", "smallest", "±"):
        table.add_column(heading, justify="right")
    size, tolerance = "{}x{}".format(*found.size), f"{found.tolerance:.0e}"
    reduction = found.reduction
    table.add_row("reduction", size, f"{reduction.largest:.5f}", "", f"{reduction.tolerance:.0e}")
    table.add_row("orthogonal", size, f"{found.largest:.5f}", f"{found.smallest:.5f}", tolerance, end_section=True)
    for layer in found.after:
        size = "" if layer.size is None else "{}x{}".format(*layer.size)
        table.add_row(f"{layer.name} ({layer.kind})", size, f"{layer.largest:.5f}", "", f"{layer.tolerance:.0e}")
    return table
