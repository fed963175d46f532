"""Is a small gain a robust model, or a weak attack? Checks that expose the second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from iqa_armor.attacks.base import ScoreFn
from iqa_armor.attacks.budgets import at_budgets, budget_key
from iqa_armor.attacks.expectation import expectation
from iqa_armor.attacks.pgd import PGD
from iqa_armor.evaluation.probing import TOLERANCE, PassThrough, Probe, exceeds
from iqa_armor.results import Check

T = TypeVar("T")
EOT_SAMPLES = 8
FEWEST = 0.5  # share of the strongest attack's gain that the headline attack must find
VANISHED = 1e-4  # of the score range: less, predicted by the gradient for the whole budget, is no gradient


def check_strength(
    probe: Probe,
    epsilons: Sequence[float],
    *,
    surrogate: ScoreFn | None = None,
    on_check: Callable[[int, int], None] | None = None,
) -> tuple[Check, ...]:
    """Return what the attacks on a model look like when they are checked as the field asks for.

    A failed check means that the figures of this evaluation may flatter the model.

    Args:
        probe: The frozen model and the images to try.
        epsilons: Budgets of the evaluation, ascending, in [0, 1] units.
        surrogate: Score of another model, whose attacks are tried on this one; the baseline's.
        on_check: Called with (checks done, checks in all).

    Source: Carlini et al., "On Evaluating Adversarial Robustness", 2019, arXiv:1902.06705, Section 5;
    Athalye et al., ICML 2018, arXiv:1802.00420, Section 3.1. The tolerances are (ours).
    """
    checks: list[Callable[[], Check]] = [
        lambda: _random(probe),
        lambda: _gradients(probe),
        lambda: _budgets(probe, epsilons),
        lambda: _steps(probe),
        lambda: _headline(probe),
        lambda: _black_box(probe),
        lambda: _steps_without_gradient(probe),
        lambda: _transfer(probe, surrogate),
    ]
    found: list[Check] = []
    for check in checks:
        found.append(check())
        if on_check is not None:
            on_check(len(found), len(checks))
    return tuple(found)


def _gradients(probe: Probe) -> Check:
    predicted = probe.slopes() * probe.epsilon
    vanished = float((predicted < VANISHED).double().mean())
    figures = {"vanished_share": vanished, "median_predicted_gain": float(predicted.median())}
    if vanished > 0:
        says = (
            f"{vanished:.0%} of the images have no gradient to follow: gradient attacks are blind there, and their "
            "small gains prove nothing"
        )
        return _verdict("gradients do not vanish", says, figures, is_passed=False)
    return _verdict("gradients do not vanish", "every image has a gradient to follow", figures, is_passed=True)


def _budgets(probe: Probe, epsilons: Sequence[float]) -> Check:
    name = "more budget, more gain"
    if len(epsilons) < 2:
        return _not_applicable(name, "the evaluation has one budget only")
    attacks = at_budgets(PGD(steps=8), epsilons)
    gains = [probe.gain(attack) for attack in attacks]
    falls = [
        f"{budget_key(large)}/255 gains less than {budget_key(small)}/255"
        for (small, large), (less, more) in zip(_pairs(attacks), _pairs(gains), strict=True)
        if exceeds(less, more)
    ]
    figures = {f"pgd8_at_{budget_key(attack)}": float(gain.mean()) for attack, gain in zip(attacks, gains, strict=True)}
    says = "; ".join(falls) or "PGD-8 gains at least as much with every larger budget"
    return _verdict(name, says, figures, is_passed=not falls)


def _steps(probe: Probe) -> Check:
    order = ("pgd1", "pgd8", "pgd50")
    falls = [
        f"{more} gains less than {less}"
        for less, more in _pairs(order)
        if exceeds(probe.known(less), probe.known(more))
    ]
    if exceeds(probe.known("pgd8"), probe.known("apgd")):
        falls.append("Auto-PGD with restarts gains less than pgd8")
    figures = {name: float(probe.known(name).mean()) for name in (*order, "apgd")}
    says = "; ".join(falls) or "PGD-1, PGD-8, PGD-50 and Auto-PGD with restarts are each as strong as the one before"
    return _verdict("more steps, more gain", says, figures, is_passed=not falls)


def _headline(probe: Probe) -> Check:
    name = "PGD-8 is strong enough"
    best, common = float(probe.white_box().mean()), float(probe.known("pgd8").mean())
    figures = {"pgd8": common, "strongest": best}
    if best <= TOLERANCE:
        return _verdict(name, "no gradient attack moves the score, so none is weaker", figures, is_passed=True)
    says = f"PGD-8 finds {max(0.0, common / best):.0%} of the gain that the strongest gradient attack finds"
    is_passed = common >= FEWEST * best or best - common <= TOLERANCE
    if not is_passed:
        says += ": its figures say too little, name stronger attacks with --attack"
    return _verdict(name, says, figures, is_passed=is_passed)


def _black_box(probe: Probe) -> Check:
    square, white = probe.known("square"), probe.white_box()
    figures = {"square": float(square.mean()), "white_box": float(white.mean())}
    if exceeds(square, white):
        says = "Square, which sees scores only, gains more than every gradient attack: the gradients mislead"
        return _verdict("no black-box attack is stronger", says, figures, is_passed=False)
    says = "Square, which sees scores only, gains no more than the gradient attacks"
    return _verdict("no black-box attack is stronger", says, figures, is_passed=True)


def _random(probe: Probe) -> Check:
    name = "random scores are averaged"
    if not probe.is_random():
        return _not_applicable(name, "the same image always has the same score")
    probe.repeats = EOT_SAMPLES
    averaged = probe.gain(PGD(probe.epsilon, steps=8), through=expectation(probe.score, EOT_SAMPLES))
    plain = probe.known("pgd8")
    figures = {"pgd8_through_expectation": float(averaged.mean()), "pgd8": float(plain.mean())}
    if exceeds(averaged, plain):
        says = f"scores are random, and PGD-8 on the mean of {EOT_SAMPLES} gains more than the figures show"
        return _verdict(name, says, figures, is_passed=False)
    says = f"scores are random, but PGD-8 on the mean of {EOT_SAMPLES} gains no more"
    return _verdict(name, says, figures, is_passed=True)


def _steps_without_gradient(probe: Probe) -> Check:
    name = "no step hides the gradient"
    mode = PassThrough()

    def through(images: Tensor) -> Tensor:
        with mode:
            return probe.score(images)

    with torch.enable_grad():
        through(probe.images[:1].detach().requires_grad_())
    if not mode.passed:
        return _not_applicable(name, "no rounding, sign or detaching was met between pixels and score")
    passed, white = probe.gain(PGD(probe.epsilon, steps=8), through=through), probe.white_box()
    figures = {"pgd8_straight_through": float(passed.mean()), "white_box": float(white.mean())}
    if exceeds(passed, white):
        says = "PGD-8 that passes gradients straight through rounding, signs and detaching gains more than without"
        return _verdict(name, says, figures, is_passed=False)
    says = "passing gradients straight through rounding, signs and detaching gains no more"
    return _verdict(name, says, figures, is_passed=True)


def _transfer(probe: Probe, surrogate: ScoreFn | None) -> Check:
    name = "no borrowed attack is stronger"
    if surrogate is None:
        return _not_applicable(name, "there is no other model of the same image size to borrow attacks from")
    borrowed, white = probe.gain(PGD(probe.epsilon, steps=8), through=surrogate), probe.white_box()
    figures = {"pgd8_of_the_baseline": float(borrowed.mean()), "white_box": float(white.mean())}
    if exceeds(borrowed, white):
        says = "images attacked for the baseline gain more than those attacked for this model: its gradients mislead"
        return _verdict(name, says, figures, is_passed=False)
    return _verdict(name, "images attacked for the baseline gain no more", figures, is_passed=True)


def _pairs(values: Sequence[T]) -> list[tuple[T, T]]:
    return list(pairwise(values))


def _verdict(name: str, says: str, figures: dict[str, float], *, is_passed: bool) -> Check:
    return Check(name=name, status="passed" if is_passed else "failed", says=says, figures=dict(figures))


def _not_applicable(name: str, says: str) -> Check:
    return Check(name=name, status="not applicable", says=says)
