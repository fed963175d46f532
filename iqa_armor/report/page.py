"""A report as one self-contained HTML page."""

import base64
import itertools
import re
from html import escape
from importlib import resources

from iqa_armor.report.document import READINGS, ImageFile, Report, Table
from iqa_armor.report.svg import draw


def render_page(report: Report) -> str:
    """Return a report as the text of one HTML file that needs no other file and no network.

    The JSON of what is reported stands in an element whose id is the report's kind.
    """
    from jinja2 import Environment, StrictUndefined

    home = resources.files("iqa_armor.report")
    rules = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    numbers = itertools.count()
    return rules.from_string(home.joinpath("page.html").read_text(encoding="utf-8")).render(
        report=report,
        style=home.joinpath("page.css").read_text(encoding="utf-8"),
        # It cannot close the element that it stands in; JSON may spell these as escapes.
        json=report.json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
        draw=lambda chart: draw(chart, f"chart{next(numbers)}"),
        spoken=_spoken,
        minus=_minus,
        rows_below=_rows_below,
        embedded=_embedded,
    )


def _minus(text: str) -> str:
    return re.sub(r"(^|[\s\[])-(?=\.?\d)", r"\1−", text)


def _spoken(sentence: str) -> str:
    """Return a sentence as HTML, its readings in colour and its numbers with a true minus."""
    tones = {reading: tone for reading, tone in READINGS.items() if tone != "dim"}
    return re.sub(
        rf"\(({'|'.join(tones)})\)",
        lambda found: f'(<strong class="{tones[found[1]]}">{found[1]}</strong>)',
        _minus(escape(sentence)),
    )


def _rows_below(table: Table, group: int, place: tuple[int, int]) -> int:
    """Return how many rows a cell covers: its own, and those below it that have none of their own."""
    row, column = place
    below = itertools.takewhile(lambda each: each[column] is None, table.groups[group].rows[row + 1 :])
    return 1 + len(list(below))


def _embedded(file: ImageFile) -> tuple[str, int, int]:
    """Return an image file as a data URI, with its width and height."""
    from PIL import Image

    from iqa_armor.data.images import opened

    with opened(file.data) as picture:
        kind = Image.MIME[picture.format or "PNG"]
        return f"data:{kind};base64,{base64.b64encode(file.data).decode('ascii')}", *picture.size
