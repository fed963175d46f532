"""`iqa-armor inspect`: where a block can stand, and the singular values of those that stand."""

from dataclasses import asdict
from typing import Any

from iqa_armor.cli.arguments import ModelArg, ModelCall
from iqa_armor.cli.console import say, say_next, show_if_json, show_table
from iqa_armor.cli.options import options
from iqa_armor.pipeline.settings import Opening


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
    rows, several = [], any(cut.branch for cut in found.cuts)
    for cut in found.cuts:
        recommended = "last" if cut.node in found.recommended else ""
        figures = (str(cut.position), str(cut.channels), "{}x{}".format(*cut.size), f"{cut.ratio:.3f}")
        rows.append([cut.node, *figures, *[str(cut.branch + 1)] * several, recommended])
    headings = ["node", "position", "channels", "map", "out ÷ in", *["branch"] * several, ""]
    title = f"{found.name}: {found.parameters / 1e6:.2f} M parameters, input {'{}x{}'.format(*found.input_size)}"
    caption = "last: where a block belongs (--position last)" if found.recommended else None
    show_table(headings, rows, title=title, caption=caption)
    if found.grids:
        cells = ((at.node, str(at.channels), "{}x{}".format(*at.size), str(at.extra), at.module) for at in found.grids)
        title = "tokens at the end of a transformer's units"
        show_table(("node", "channels", "grid", "further tokens", "module"), cells, title=title)
    for block in found.spectra:
        shown: list[tuple[Any, ...]] = [
            ("reduction", block.size, block.reduction.largest, "", block.reduction.tolerance),
            ("orthogonal", block.size, block.largest, f"{block.smallest:.5f}", block.tolerance),
            *((f"{each.name} ({each.kind})", each.size, each.largest, "", each.tolerance) for each in block.after),
        ]
        maps = ["{}x{}".format(*size) if size else "" for _, size, *_ in shown]  # vectors have none
        found_at = zip(maps, shown, strict=True)
        lines = [(name, at, f"{a:.5f}", b, f"{by:.0e}") for at, (name, _, a, b, by) in found_at]
        missing = f"; not measured: {', '.join(block.unmeasured)}" if block.unmeasured else ""
        caption = f"orthogonal part: {block.method}; ± is how far a value may be from a singular value{missing}"
        title = f"singular values of {block.name} ({block.backend}) and behind it"
        show_table(("layer", "map", "largest", "smallest", "±"), lines, title=title, caption=caption)
    say(*found.remarks)
    say_next("harden", model, "--data", "csv:labels.csv", *call.words(Opening))
