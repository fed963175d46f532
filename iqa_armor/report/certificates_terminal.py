"""A certification as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iqa_armor.report.certificates import IMAGE_HEADINGS, data_words, headings, image_cells, lines, notes
from iqa_armor.results import Certification


@dataclass(frozen=True)
class CertificationReport:
    """A rich renderable: images where files were named, a summary per model and method, what the figures mean."""

    found: Certification

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts."""
        if self.found.data is None:
            yield from _images(self.found)
        yield summary_table(self.found)
        footnotes = (data_words(self.found), *notes(self.found))
        yield Padding(Text("\n".join(footnotes), style="dim"), (0, 1))


def summary_table(found: Certification) -> Table:
    """Return a row per model and method."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "method", "guarantee"):
        table.add_column(heading, overflow="fold", min_width=6)
    for heading in headings(found):
        table.add_column(heading, justify="right", overflow="fold")
    for line in lines(found):
        name = f"{line.model} (baseline)" if line.model == found.baseline else line.model
        table.add_row(*map(Text, (name, line.method, line.guarantee, *line.cells)))
    return table


def _images(found: Certification) -> Iterator[Table]:
    for model in found.models:
        for word, figures in model.methods.items():
            table = Table(
                box=box.SIMPLE_HEAD, pad_edge=False, title=Text(f"{model.name}, {word}"), title_justify="left"
            )
            table.add_column("image", overflow="fold")
            for heading in IMAGE_HEADINGS:
                table.add_column(heading, justify="right")
            for image in figures.images:
                table.add_row(*map(Text, (image.name, *image_cells(image))))
            yield table
