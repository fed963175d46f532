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
from iqa_armor.results.certification import Certification

WIDE = 100  # columns


@dataclass(frozen=True)
class CertificationReport:
    """A rich renderable: images where files were named, a summary per model and method, what the figures mean."""

    found: Certification

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts."""
        if self.found.data is None:
            yield from _images(self.found)
        yield summary_table(self.found, is_wide=options.max_width >= WIDE)
        footnotes = (data_words(self.found), *notes(self.found))
        yield Padding(Text("\n".join(footnotes), style="dim"), (0, 1))


def summary_table(found: Certification, *, is_wide: bool = True) -> Table:
    """Return a section per model: a row for its plain score and one per method.

    Args:
        found: What to show.
        is_wide: Whether there is room for PLCC and the time of the score alone.
    """
    kept = [place for place, heading in enumerate(headings(found)) if is_wide or heading not in ("PLCC", "s/\nimage")]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model, method", overflow="fold")
    table.add_column("guarantee", overflow="fold")
    for heading in (headings(found)[place] for place in kept):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in found.models:
        name = f"{model.name} (baseline)" if model.name == found.baseline else model.name
        table.add_row(Text(name, style="bold"))
        for line in lines(found):
            if line.model == model.name:
                table.add_row(*map(Text, (f"  {line.method}", line.guarantee, *(line.cells[place] for place in kept))))
        table.add_section()
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
