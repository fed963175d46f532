"""Attacks on a scalar quality score: small frozen values, called with a score function and images."""

from __future__ import annotations

from iqa_armor.attacks.adaptive import expectation
from iqa_armor.attacks.advcf import AdvCF
from iqa_armor.attacks.apgd import APGD
from iqa_armor.attacks.base import (
    Attack,
    Batches,
    Direction,
    Fitted,
    Norm,
    ScoreFn,
    frozen,
    project_linf,
    score_gradient,
)
from iqa_armor.attacks.generator import FACPA, Perturber
from iqa_armor.attacks.korhonen import KorhonenYou
from iqa_armor.attacks.l2 import L2PGD
from iqa_armor.attacks.madc import MADC
from iqa_armor.attacks.momentum import AMIFGSM, MIFGSM
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.square import Square
from iqa_armor.attacks.ssah import SSAH
from iqa_armor.attacks.stadv import StAdv
from iqa_armor.attacks.sweep import Attacked, Plan, at_budgets, at_epsilon, budget_key, run_sweep
from iqa_armor.attacks.uap import UAP, Pattern
from iqa_armor.attacks.words import parse_word
from iqa_armor.attacks.zhang import Zhang

__all__ = [
    "AMIFGSM",
    "APGD",
    "ATTACKS",
    "FACPA",
    "L2PGD",
    "MADC",
    "MIFGSM",
    "PGD",
    "SSAH",
    "UAP",
    "AdvCF",
    "Attack",
    "Attacked",
    "Batches",
    "Direction",
    "Fitted",
    "KorhonenYou",
    "Norm",
    "Pattern",
    "Perturber",
    "Plan",
    "ScoreFn",
    "Square",
    "StAdv",
    "Zhang",
    "at_budgets",
    "at_epsilon",
    "budget_key",
    "expectation",
    "frozen",
    "parse_attack",
    "project_linf",
    "run_sweep",
    "score_gradient",
]

ATTACKS: dict[str, Attack] = {
    "pgd1": PGD(steps=1),
    "pgd8": PGD(steps=8),
    "pgd": PGD(),
    "mifgsm": MIFGSM(),
    "amifgsm": AMIFGSM(),
    "apgd": APGD(),
    "l2pgd": L2PGD(),
    "madc": MADC(),
    "korhonen-you": KorhonenYou(),
    "zhang": Zhang(),
    "ssah": SSAH(),
    "stadv": StAdv(),
    "advcf": AdvCF(),
    "square": Square(),
    "uap": UAP(),
    "facpa": FACPA(),
}


def parse_attack(text: str) -> Attack:
    """Return the attack named by a word of the command line.

    Args:
        text: A name in `ATTACKS`; `pgdN` for N steps; or `NAME:key=value,…` with the attack's own
            hyperparameters, of which pixel values (`step_size`, and `epsilon` unless it is another length) are
            in 1/255.

    Raises:
        UsageError: If the name or a hyperparameter is unknown, or a value is not allowed.
    """
    return parse_word(text, ATTACKS)
