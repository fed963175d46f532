"""How an outcome or a certification is shown; reads nothing but `results`."""

from iqa_armor.report.certificates_page import render_certification
from iqa_armor.report.certificates_terminal import CertificationReport
from iqa_armor.report.page import render_page
from iqa_armor.report.reading import Comparison, compare, failed_checks, headline
from iqa_armor.report.terminal import TerminalReport
from iqa_armor.report.verdicts import verdict

__all__ = [
    "CertificationReport",
    "Comparison",
    "TerminalReport",
    "compare",
    "failed_checks",
    "headline",
    "render_certification",
    "render_page",
    "verdict",
]
