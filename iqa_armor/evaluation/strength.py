"""Is a small gain a robust model, or a weak attack? Checks that expose the second, on a few images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.apgd import APGD, Square
from iqa_armor.attacks.base import Attack, ScoreFn, frozen
from iqa_armor.attacks.budgets import at_budgets, budget_key, turned
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.scores import expectation, score_gradient
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.defenses.base import Defended
from iqa_armor.evaluation.run import Run, followed_score, prepare_for, restart
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.gradients import PassThrough
from iqa_armor.models.base import QualityModel
from iqa_armor.results.figures import StrengthCheck

EOT_SAMPLES = 8
FEWEST = 0.5  # share of the strongest attack's gain that the headline attack must find
VANISHED = 1e-4  # of the score range: less, predicted by the gradient for the whole budget, is no gradient
TOLERANCE = 0.002  # of the score range: less is noise


@dataclass
class AttackGains:
    """Attacks on a frozen model and a few images; gains are per image, in score ranges, in the attack's direction."""

    model: QualityModel
    followed: ScoreFn  # what attacks follow: the model, or the way through its defense
    images: Tensor  # clean ones (N, 3, H, W) in [0, 1], on the model's device
    width: float  # of the model's score range
    settings: EvaluationSettings
    lender: ScoreFn | None = None  # what attacks are borrowed from
    repeats: int = 1  # a random score is the mean of so many
    _known: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epsilon(self) -> float:
        """L-infinity budget of the checks in [0, 1]: 4/255 where it is among the budgets, else the middle one."""
        epsilons = self.settings.epsilons
        return next((e for e in epsilons if f"{e * 255:g}" == "4"), epsilons[len(epsilons) // 2])

    def of(self, attack: Attack, *, through: ScoreFn | None = None) -> Tensor:
        """Return the gain (N,) of an attack, turned in this direction, on a score if not on the one it follows."""
        own = turned(attack, self.settings.sign)
        generator = Generator(device=self.images.device).manual_seed(self.settings.seed)
        parts = [
            self._scored(own(through or self.followed, part, generator)) - self._scored(part)
            for part in torch.split(self.images, self.settings.batch_size)
        ]
        return self.settings.sign * torch.cat(parts).double().cpu() / self.width

    def pgd8(self, through: ScoreFn) -> Tensor:
        return self.of(PGD(self.epsilon, steps=8), through=through)

    def known(self, name: str) -> Tensor:
        """Return the gain of "pgd1", "pgd8", "pgd50", "apgd" or "square", computed once."""
        if name not in self._known:
            attacks: dict[str, Attack] = {f"pgd{steps}": PGD(self.epsilon, steps=steps) for steps in (1, 8, 50)}
            attacks |= {"apgd": APGD(self.epsilon, 50, restarts=2), "square": Square(self.epsilon, queries=300)}
            self._known[name] = self.of(attacks[name])
        return self._known[name]

    def white_box(self) -> Tensor:
        """Return the largest gain of each image among the gradient attacks."""
        return torch.stack([self.known(name) for name in ("pgd8", "pgd50", "apgd")]).amax(0)

    @torch.no_grad()
    def _scored(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(images) for _ in range(self.repeats)]).mean(0)


def exceeds(stronger: Tensor, weaker: Tensor) -> bool:
    """Return whether one gain is larger in the mean: by 0.2 % of the score range and two standard errors of pairs."""
    differences = stronger - weaker
    error = float(differences.std()) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return float(differences.mean()) > TOLERANCE + 2 * error


def check_strength(run: Run, model: QualityModel) -> tuple[StrengthCheck, ...]:
    """Return checks of attacks that know a model's defense; one that fails means that the figures may flatter it.

    Source: Carlini et al., "On Evaluating Adversarial Robustness", 2019, arXiv:1902.06705, Section 5;
    Athalye et al., ICML 2018, arXiv:1802.00420, Section 3.1. The tolerances are (ours).
    """
    if isinstance(model, Defended) and model.threat == "bare":
        return ()
    settings, dataset = run.settings, run.datasets[0]
    chosen = PreparedImages(run.images(dataset).limit(settings.check_images), prepare_for(model, dataset))
    images, score = next(batches(chosen, settings.check_images))[0].to(run.device), followed_score(model, settings.eot)
    gains = AttackGains(model, score, images, run.scale(model).width, settings, run.lender_for(model))
    told = run.teller(model, f"{len(images)} images (checks of strength)", len(CHECKS))
    restart(model, settings.seed, "checks")
    found: list[StrengthCheck] = []
    with frozen(model):
        for check in CHECKS:
            found.append(check(gains))
            told(len(found))
    return tuple(found)


def _random(gains: AttackGains) -> StrengthCheck:
    name, part = "random scores are averaged", gains.images[: gains.settings.batch_size]
    with torch.no_grad():
        if torch.equal(gains.model(part), gains.model(part)):
            return _not_applicable(name, "the same image always has the same score")
    gains.repeats = EOT_SAMPLES
    found = {"pgd8_through_expectation": gains.pgd8(expectation(gains.model, EOT_SAMPLES)), "pgd8": gains.known("pgd8")}
    beaten = f"scores are random, and PGD-8 on the mean of {EOT_SAMPLES} gains more than the figures show"
    holds = f"scores are random, but PGD-8 on the mean of {EOT_SAMPLES} gains no more"
    return _contest(name, found, beaten=beaten, holds=holds)


def _gradients(gains: AttackGains) -> StrengthCheck:
    parts = torch.split(gains.images, gains.settings.batch_size)
    slopes = torch.cat([score_gradient(gains.followed, part).abs().sum((1, 2, 3)) for part in parts])
    predicted = slopes.double().cpu() / gains.width * gains.epsilon
    vanished = float((predicted < VANISHED).double().mean())
    figures = {"vanished_share": vanished, "median_predicted_gain": float(predicted.median())}
    blind = "have no gradient to follow: gradient attacks are blind there, and their small gains prove nothing"
    fault = f"{vanished:.0%} of the images {blind}" if vanished > 0 else ""
    return _verdict("gradients do not vanish", figures, fault=fault, holds="every image has a gradient to follow")


def _budgets(gains: AttackGains) -> StrengthCheck:
    name, epsilons = "more budget, more gain", gains.settings.epsilons
    if len(epsilons) < 2:
        return _not_applicable(name, "the evaluation has one budget only")
    found = {budget_key(attack): gains.of(attack) for attack in at_budgets(PGD(steps=8), epsilons)}
    falls = [f"{b}/255 gains less than {a}/255" for a, b in pairwise(found) if exceeds(found[a], found[b])]
    figures = {f"pgd8_at_{key}": gain for key, gain in found.items()}
    holds = "PGD-8 gains at least as much with every larger budget"
    return _verdict(name, figures, fault="; ".join(falls), holds=holds)


def _steps(gains: AttackGains) -> StrengthCheck:
    found = {name: gains.known(name) for name in ("pgd1", "pgd8", "pgd50", "apgd")}
    pairs = {"pgd8": "pgd1", "pgd50": "pgd8", "apgd": "pgd8"}
    weaker = [(more, less) for more, less in pairs.items() if exceeds(found[less], found[more])]
    falls = [f"{'Auto-PGD with restarts' if more == 'apgd' else more} gains less than {less}" for more, less in weaker]
    holds = "PGD-1, PGD-8, PGD-50 and Auto-PGD with restarts are each as strong as the one before"
    return _verdict("more steps, more gain", found, fault="; ".join(falls), holds=holds)


def _headline(gains: AttackGains) -> StrengthCheck:
    best, common = float(gains.white_box().mean()), float(gains.known("pgd8").mean())
    is_strong = best <= TOLERANCE or common >= FEWEST * best or best - common <= TOLERANCE
    holds = "no gradient attack moves the score, so none is weaker"
    if best > TOLERANCE:
        holds = f"PGD-8 finds {max(0.0, common / best):.0%} of the gain that the strongest gradient attack finds"
    fault = "" if is_strong else f"{holds}: its figures say too little, name stronger attacks with --attack"
    return _verdict("PGD-8 is strong enough", {"pgd8": common, "strongest": best}, fault=fault, holds=holds)


def _black_box(gains: AttackGains) -> StrengthCheck:
    found = {"square": gains.known("square"), "white_box": gains.white_box()}
    beaten = "Square, which sees scores only, gains more than every gradient attack: the gradients mislead"
    holds = "Square, which sees scores only, gains no more than the gradient attacks"
    return _contest("no black-box attack is stronger", found, beaten=beaten, holds=holds)


def _steps_without_gradient(gains: AttackGains) -> StrengthCheck:
    name, mode = "no step hides the gradient", PassThrough()

    def through(images: Tensor) -> Tensor:
        with mode:
            scores: Tensor = gains.model(images)
        return scores

    with torch.enable_grad():
        through(gains.images[:1].detach().requires_grad_())
    if not mode.passed:
        return _not_applicable(name, "no rounding, sign or detaching was met between pixels and score")
    found = {"pgd8_straight_through": gains.pgd8(through), "white_box": gains.white_box()}
    beaten = "PGD-8 that passes gradients straight through rounding, signs and detaching gains more than without"
    holds = "passing gradients straight through rounding, signs and detaching gains no more"
    return _contest(name, found, beaten=beaten, holds=holds)


def _transfer(gains: AttackGains) -> StrengthCheck:
    name = "no borrowed attack is stronger"
    if gains.lender is None:
        return _not_applicable(name, "there is no other model of the same image size to borrow attacks from")
    found = {"pgd8_of_the_baseline": gains.pgd8(gains.lender), "white_box": gains.white_box()}
    beaten = "images attacked for the baseline gain more than those attacked for this model: its gradients mislead"
    return _contest(name, found, beaten=beaten, holds="images attacked for the baseline gain no more")


CHECKS = (_random, _gradients, _budgets, _steps, _headline, _black_box, _steps_without_gradient, _transfer)


def _contest(name: str, gains: Mapping[str, Tensor], *, beaten: str, holds: str) -> StrengthCheck:
    """Return a check that fails where the first of two gains is larger than the second."""
    return _verdict(name, gains, fault=beaten if exceeds(*gains.values()) else "", holds=holds)


def _verdict(name: str, figures: Mapping[str, Tensor | float], *, fault: str, holds: str) -> StrengthCheck:
    means = {name: float(torch.as_tensor(figure).mean()) for name, figure in figures.items()}
    return StrengthCheck(name=name, status="failed" if fault else "passed", says=fault or holds, figures=means)


def _not_applicable(name: str, says: str) -> StrengthCheck:
    return StrengthCheck(name=name, status="not applicable", says=says)
