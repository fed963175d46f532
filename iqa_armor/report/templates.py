"""Templates of the pages, and what stands in them as it is."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str) -> Template:
    """Return a template of this package, which may import others; everything it shows is escaped unless marked."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(source)
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=loader).get_template(name)


def source(name: str) -> str:
    """Return the text of a file that lies beside the templates."""
    return resources.files("iqa_armor.report").joinpath(name).read_text(encoding="utf-8")


def inside_script(json: str) -> str:
    """Return JSON text that cannot close the element it stands in."""
    # JSON may spell these as escapes.
    return json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
