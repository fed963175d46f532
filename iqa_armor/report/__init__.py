"""How an outcome is shown; reads nothing but `results`."""

from iqa_armor.report.page import render_page
from iqa_armor.report.reading import Comparison, compare, failed_checks, headline, verdict
from iqa_armor.report.terminal import TerminalReport

__all__ = ["Comparison", "TerminalReport", "compare", "failed_checks", "headline", "render_page", "verdict"]
