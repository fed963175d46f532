"""`iqa-armor inspect`: where a block can stand, and the singular values of those that stand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from iqa_armor.cli.arguments import ModelArg, ModelCall
from iqa_armor.cli.console import say, say_next, show_if_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.settings import Opening

if TYPE_CHECKING:
    from iqa_armor.pipeline.inspect import Inspection
    from iqa_armor.surgery.spectra import BlockSpectrum


@options(without={"score_range", "lower_is_better", "device", "overwrite", "dry_run"})
def inspect(model: ModelArg, call: ModelCall) -> None:
    """Of a hardened model, also the measured singular values of its blocks and of the layers behind them.

    Examples:
        iqa-armor inspect model.pt
        iqa-armor inspect model-hardened.safetensors
    """
    from iqa_armor.pipeline.inspect import inspect_model

    found = inspect_model(call.load(model))
    if show_if_json(asdict(found)):
        return
    _show_cuts(found)
    if found.grids:
        rows = ((at.node, str(at.channels), "{}x{}".format(*at.size), str(at.extra), at.module) for at in found.grids)
        title = "tokens at the end of a transformer's units"
        show_table(("node", "channels", "grid", "further tokens", "module"), rows, title=title)
    for spectrum in found.spectra:
        _show_spectrum(spectrum)
    say(*found.remarks)
    say_next("harden", model, "--data", "csv:labels.csv", *call.words(Opening))


def _show_cuts(found: Inspection) -> None:
    rows, several = [], any(cut.branch for cut in found.cuts)
    for cut in found.cuts:
        branch = [str(cut.branch + 1)] * several
        recommended = "last" if cut.node in found.recommended else ""
        figures = (str(cut.position), str(cut.channels), "{}x{}".format(*cut.size), f"{cut.ratio:.3f}")
        rows.append([cut.node, *figures, *branch, recommended])
    headings = ["node", "position", "channels", "map", "out ÷ in", *["branch"] * several, ""]
    height, width = found.input_size
    title = f"{found.name}: {found.parameters / 1e6:.2f} M parameters, input {height}x{width}"
    caption = "last: where a block belongs (--position last)" if found.recommended else None
    show_table(headings, rows, title=title, caption=caption)


def _show_spectrum(found: BlockSpectrum) -> None:
    size, reduction = "{}x{}".format(*found.size), found.reduction
    rows = [
        ("reduction", size, f"{reduction.largest:.5f}", "", f"{reduction.tolerance:.0e}"),
        ("orthogonal", size, f"{found.largest:.5f}", f"{found.smallest:.5f}", f"{found.tolerance:.0e}"),
    ]
    for layer in found.after:
        size = "" if layer.size is None else "{}x{}".format(*layer.size)
        rows.append((f"{layer.name} ({layer.kind})", size, f"{layer.largest:.5f}", "", f"{layer.tolerance:.0e}"))
    caption = f"orthogonal part: {found.method}; ± is how far a value may be from a singular value"
    show_table(
        ("layer", "map", "largest", "smallest", "±"),
        rows,
        title=f"singular values of {found.name} ({found.backend}) and behind it",
        caption=caption + (f"; not measured: {', '.join(found.unmeasured)}" if found.unmeasured else ""),
    )
