"""Is a small gain a robust model, or a weak attack? Checks that expose the second."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from iqa_armor.attacks.base import ScoreFn, frozen
from iqa_armor.attacks.budgets import at_budgets, budget_key
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.scores import expectation
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.defenses.base import Defended
from iqa_armor.evaluation.attack_gains import TOLERANCE, AttackGains, PassThrough, exceeds
from iqa_armor.evaluation.randomness import restart
from iqa_armor.evaluation.run import Run, prepare_for
from iqa_armor.models.base import QualityModel
from iqa_armor.results.figures import StrengthCheck

EOT_SAMPLES = 8
FEWEST = 0.5  # share of the strongest attack's gain that the headline attack must find
VANISHED = 1e-4  # of the score range: less, predicted by the gradient for the whole budget, is no gradient


def check_strength(run: Run, model: QualityModel) -> tuple[StrengthCheck, ...]:
    """Return what the attacks on a model look like when they are checked as the field asks for.

    A failed check means that the figures of this evaluation may flatter the model. There are none where attacks do not
    know its defense.

    Source: Carlini et al., "On Evaluating Adversarial Robustness", 2019, arXiv:1902.06705, Section 5;
    Athalye et al., ICML 2018, arXiv:1802.00420, Section 3.1. The tolerances are (ours).
    """
    if isinstance(model, Defended) and model.threat == "bare":
        return ()
    settings, dataset = run.settings, run.datasets[0]
    chosen = PreparedImages(run.images(dataset).limit(settings.check_images), prepare_for(model, dataset))
    images, _, _ = next(batches(chosen, settings.check_images))
    gains = AttackGains(model, images.to(run.device), run.scale(model).width, settings)
    checks = (_random, _gradients, _budgets, _steps, _headline, _black_box, _steps_without_gradient)
    told = run.teller(model, f"{len(images)} images (checks of strength)", len(checks) + 1)
    restart(model, settings.seed, "checks")
    found: list[StrengthCheck] = []
    with frozen(model):
        for check in (*checks, partial(_transfer, surrogate=run.lender_for(model))):
            found.append(check(gains))
            told(len(found))
    return tuple(found)


def _gradients(gains: AttackGains) -> StrengthCheck:
    predicted = gains.slopes() * gains.epsilon
    vanished = float((predicted < VANISHED).double().mean())
    figures = {"vanished_share": vanished, "median_predicted_gain": float(predicted.median())}
    says = "every image has a gradient to follow"
    if vanished > 0:
        blind = "have no gradient to follow: gradient attacks are blind there, and their small gains prove nothing"
        says = f"{vanished:.0%} of the images {blind}"
    return _verdict("gradients do not vanish", says, figures, is_passed=vanished == 0)


def _budgets(gains: AttackGains) -> StrengthCheck:
    name = "more budget, more gain"
    epsilons = gains.settings.epsilons
    if len(epsilons) < 2:
        return _not_applicable(name, "the evaluation has one budget only")
    found = {budget_key(attack): gains.of(attack) for attack in at_budgets(PGD(steps=8), epsilons)}
    falls = [
        f"{large}/255 gains less than {small}/255"
        for small, large in pairwise(found)
        if exceeds(found[small], found[large])
    ]
    figures = {f"pgd8_at_{key}": mean for key, mean in _means(found).items()}
    says = "; ".join(falls) or "PGD-8 gains at least as much with every larger budget"
    return _verdict(name, says, figures, is_passed=not falls)


def _steps(gains: AttackGains) -> StrengthCheck:
    found = {name: gains.known(name) for name in ("pgd1", "pgd8", "pgd50", "apgd")}
    pairs = {"pgd8": "pgd1", "pgd50": "pgd8", "apgd": "pgd8"}
    weaker = [(more, less) for more, less in pairs.items() if exceeds(found[less], found[more])]
    falls = [f"{'Auto-PGD with restarts' if more == 'apgd' else more} gains less than {less}" for more, less in weaker]
    says = "; ".join(falls) or "PGD-1, PGD-8, PGD-50 and Auto-PGD with restarts are each as strong as the one before"
    return _verdict("more steps, more gain", says, _means(found), is_passed=not falls)


def _headline(gains: AttackGains) -> StrengthCheck:
    name = "PGD-8 is strong enough"
    best, common = float(gains.white_box().mean()), float(gains.known("pgd8").mean())
    figures = {"pgd8": common, "strongest": best}
    if best <= TOLERANCE:
        return _verdict(name, "no gradient attack moves the score, so none is weaker", figures, is_passed=True)
    says = f"PGD-8 finds {max(0.0, common / best):.0%} of the gain that the strongest gradient attack finds"
    is_passed = common >= FEWEST * best or best - common <= TOLERANCE
    if not is_passed:
        says += ": its figures say too little, name stronger attacks with --attack"
    return _verdict(name, says, figures, is_passed=is_passed)


def _black_box(gains: AttackGains) -> StrengthCheck:
    found = {"square": gains.known("square"), "white_box": gains.white_box()}
    beaten = "Square, which sees scores only, gains more than every gradient attack: the gradients mislead"
    holds = "Square, which sees scores only, gains no more than the gradient attacks"
    return _contest("no black-box attack is stronger", found, beaten=beaten, holds=holds)


def _random(gains: AttackGains) -> StrengthCheck:
    name = "random scores are averaged"
    if not gains.is_random():
        return _not_applicable(name, "the same image always has the same score")
    gains.repeats = EOT_SAMPLES
    averaged = gains.of(PGD(gains.epsilon, steps=8), through=expectation(gains.model, EOT_SAMPLES))
    found = {"pgd8_through_expectation": averaged, "pgd8": gains.known("pgd8")}
    beaten = f"scores are random, and PGD-8 on the mean of {EOT_SAMPLES} gains more than the figures show"
    holds = f"scores are random, but PGD-8 on the mean of {EOT_SAMPLES} gains no more"
    return _contest(name, found, beaten=beaten, holds=holds)


def _steps_without_gradient(gains: AttackGains) -> StrengthCheck:
    name = "no step hides the gradient"
    mode = PassThrough()

    def through(images: Tensor) -> Tensor:
        with mode:
            scores: Tensor = gains.model(images)
        return scores

    with torch.enable_grad():
        through(gains.images[:1].detach().requires_grad_())
    if not mode.passed:
        return _not_applicable(name, "no rounding, sign or detaching was met between pixels and score")
    passed = gains.of(PGD(gains.epsilon, steps=8), through=through)
    found = {"pgd8_straight_through": passed, "white_box": gains.white_box()}
    beaten = "PGD-8 that passes gradients straight through rounding, signs and detaching gains more than without"
    holds = "passing gradients straight through rounding, signs and detaching gains no more"
    return _contest(name, found, beaten=beaten, holds=holds)


def _transfer(gains: AttackGains, *, surrogate: ScoreFn | None) -> StrengthCheck:
    name = "no borrowed attack is stronger"
    if surrogate is None:
        return _not_applicable(name, "there is no other model of the same image size to borrow attacks from")
    borrowed = gains.of(PGD(gains.epsilon, steps=8), through=surrogate)
    found = {"pgd8_of_the_baseline": borrowed, "white_box": gains.white_box()}
    beaten = "images attacked for the baseline gain more than those attacked for this model: its gradients mislead"
    return _contest(name, found, beaten=beaten, holds="images attacked for the baseline gain no more")


def _contest(name: str, gains: dict[str, Tensor], *, beaten: str, holds: str) -> StrengthCheck:
    """Return a check that fails where the first of two gains is larger than the second."""
    is_beaten, figures = exceeds(*gains.values()), _means(gains)
    return _verdict(name, beaten if is_beaten else holds, figures, is_passed=not is_beaten)


def _means(gains: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(gain.mean()) for name, gain in gains.items()}


def _verdict(name: str, says: str, figures: dict[str, float], *, is_passed: bool) -> StrengthCheck:
    return StrengthCheck(name=name, status="passed" if is_passed else "failed", says=says, figures=dict(figures))


def _not_applicable(name: str, says: str) -> StrengthCheck:
    return StrengthCheck(name=name, status="not applicable", says=says)
