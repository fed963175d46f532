"""How an outcome is shown; reads nothing but `results`."""

from iqa_armor.report.reading import Comparison, compare, headline, verdict
from iqa_armor.report.terminal import TerminalReport

__all__ = ["Comparison", "TerminalReport", "compare", "headline", "verdict"]
