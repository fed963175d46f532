"""Which attacks and budgets a report shows, and their figures."""

from iqa_armor.report.formatting import NORMS, budget
from iqa_armor.results.figures import AttackFigures, Figures
from iqa_armor.results.outcome import Outcome

HEADLINE_ATTACK, HEADLINE_EPSILON = "pgd8", "4"
WORST = "worst case"


def headline(outcome: Outcome) -> tuple[str, str]:
    """Return the attack and the budget key that one-line summaries speak of: PGD-8 at 4/255 where run.

    Else it is the last attack that shares the evaluation's budgets, else the last one at its own.
    """
    attacks = list(outcome.settings.attacks)
    shared = [name for name in attacks if not has_own_budget(outcome, name)]
    attack = HEADLINE_ATTACK if HEADLINE_ATTACK in attacks or not attacks else (shared or attacks)[-1]
    return attack, shown_budget(outcome, attack)


def shown_budget(outcome: Outcome, attack: str) -> str:
    """Return the key of the one budget of an attack that is shown: 4/255 where run, else its middle one."""
    keys = _budgets(outcome, attack)
    return HEADLINE_EPSILON if HEADLINE_EPSILON in keys or not keys else keys[len(keys) // 2]


def has_own_budget(outcome: Outcome, attack: str) -> bool:
    """Return whether an attack was run at one budget of its own instead of the evaluation's."""
    keys = _budgets(outcome, attack)
    return len(keys) == 1 and keys != _shared_budgets(outcome)


def figures_of(figures: Figures, attack: str) -> AttackFigures:
    """Return the figures of an attack, or of `WORST`; blank ones where it was not run."""
    if attack == WORST:
        return figures.worst_case or AttackFigures()
    return figures.attacks.get(attack, AttackFigures())


def area(figures: AttackFigures, name: str) -> float | None:
    """Return the mean of a figure over budgets; where there is one budget only, the figure there."""
    found: float | None = getattr(figures, f"{name}_auc")
    values: list[float | None] = list(getattr(figures, name).values())
    return values[0] if found is None and len(values) == 1 else found


def attacks_shown(outcome: Outcome) -> list[str]:
    """Return the attacks, and behind them `WORST` where any model has it."""
    worst = [WORST] if any(model.worst_case is not None for model in outcome.models) else []
    return [*outcome.settings.attacks, *worst]


def starred(outcome: Outcome, attack: str) -> str:
    """Return the name of an attack, marked where it was run at one budget of its own."""
    return f"{attack}*" if has_own_budget(outcome, attack) else attack


def star_note(outcome: Outcome) -> tuple[str, ...]:
    """Return what the mark of `starred` means, where anything is marked."""
    is_marked = any(has_own_budget(outcome, name) for name in outcome.settings.attacks)
    return ("* Run at one budget of its own: the figure there, no mean over ε.",) if is_marked else ()


def reach(outcome: Outcome) -> str:
    """Return which attacks were run within what, in words."""
    settings = outcome.settings
    if not settings.attacks:
        return "No attack was run."
    own = [name for name in settings.attacks if has_own_budget(outcome, name)]
    shared = settings.attacks.keys() - own
    verb = "raise" if settings.direction > 0 else "lower"
    budgets = ", ".join(f"{epsilon:g}" for epsilon in settings.epsilons)
    # Only attacks that are limited otherwise name their norm.
    norms = {str(settings.attacks[name].get("norm", "linf")) for name in shared}
    named = ", ".join(sorted(NORMS.get(norm, norm) for norm in norms))
    parts = [f"within ε = {budgets} /255 ({named})"] if shared else []
    parts += [f"{', '.join(own)} at one budget of {'its' if len(own) == 1 else 'their'} own"] if own else []
    return f"Attacks {verb} scores {'; '.join(parts)}."


def under_headline(outcome: Outcome) -> str:
    """Return the name of the headline attack and its budget, as a heading."""
    attack, key = headline(outcome)
    return f"{attack}, {budget(key)}"


def _budgets(outcome: Outcome, attack: str) -> list[str]:
    runs = (figures_of(model, attack).abs_gain for model in outcome.models)
    return next((list(run) for run in runs if run), _shared_budgets(outcome))


def _shared_budgets(outcome: Outcome) -> list[str]:
    return [f"{epsilon:g}" for epsilon in outcome.settings.epsilons]
