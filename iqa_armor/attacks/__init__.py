"""Attacks on a scalar quality score: small frozen values, called with a score function and images."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from iqa_armor.attacks.budgets import unit_of
from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.attacks.base import Attack


def _pgd_of_steps(name: str) -> Attack | None:
    steps = re.fullmatch(r"pgd([1-9][0-9]{0,4})", name)
    pgd: Any = ATTACKS["pgd"] if steps else None
    return replace(pgd, steps=int(steps[1])) if steps else None


_HOME = "iqa_armor.attacks"
ATTACKS: Registry[Attack] = Registry(
    "attack",
    {
        "pgd1": Entry(f"{_HOME}.pgd:PGD", "L-infinity: one signed gradient step (FGSM).", {"steps": 1}),
        "pgd8": Entry(f"{_HOME}.pgd:PGD", "L-infinity: eight projected gradient steps.", {"steps": 8}),
        "pgd": Entry(f"{_HOME}.pgd:PGD", "L-infinity: projected gradient steps (I-FGSM).", {}),
        "mifgsm": Entry(f"{_HOME}.pgd:MIFGSM", "L-infinity: signed steps along gradients with momentum.", {}),
        "amifgsm": Entry(f"{_HOME}.pgd:AMIFGSM", "L-infinity: MI-FGSM whose budget follows the contrast.", {}),
        "apgd": Entry(f"{_HOME}.apgd:APGD", "L-infinity: Auto-PGD, whose steps halve where they stop helping.", {}),
        "l2pgd": Entry(f"{_HOME}.pgd:L2PGD", "L2: projected gradient steps.", {}),
        "madc": Entry(f"{_HOME}.pgd:MADC", "RMSE: gradient steps among images of one mean squared error.", {}),
        "korhonen-you": Entry(f"{_HOME}.perceptual:KorhonenYou", "L-infinity: Adam on changes hidden at edges.", {}),
        "zhang": Entry(f"{_HOME}.perceptual:Zhang", "L-infinity: Adam at a price on a perceptual distance.", {}),
        "ssah": Entry(f"{_HOME}.perceptual:SSAH", "L-infinity: Adam at a price on changes of low frequencies.", {}),
        "stadv": Entry(f"{_HOME}.transforms:StAdv", "Displacement in pixels: a smooth flow that moves them.", {}),
        "advcf": Entry(f"{_HOME}.transforms:AdvCF", "No budget: one color curve per channel, of bounded strength.", {}),
        "square": Entry(f"{_HOME}.apgd:Square", "L-infinity: random squares; sees scores only.", {}),
        "auto": Entry(f"{_HOME}.apgd:Auto", "L-infinity: on each image the best of Auto-PGD, Square, transfers.", {}),
        "ioi": Entry(
            f"{_HOME}.perceptual:IOI", "L-infinity: one signed step of high frequencies, hidden in texture.", {}
        ),
        "sega": Entry(f"{_HOME}.pgd:SEGA", "L-infinity: one step by gradients of the baseline, smoothed.", {}),
        "sma": Entry(f"{_HOME}.sma:SMA", "L-infinity: each image to a target that turns the set's ranking round.", {}),
        "uap": Entry(f"{_HOME}.learned:UAP", "L-infinity: one pattern for all images, learned from some.", {}),
        "facpa": Entry(f"{_HOME}.learned:FACPA", "L-infinity: a small network for any image, learned from some.", {}),
    },
    group="iqa_armor.attacks",
    accepts=f"{_HOME}.base:accepted",
    pattern=_pgd_of_steps,
    also="pgdN for N steps",
    unit=unit_of,
)
__getattr__ = ATTACKS.lazy_attribute
