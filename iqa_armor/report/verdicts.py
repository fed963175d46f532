"""What an outcome says, in sentences, and for those who know no figures in bars of text."""

from collections.abc import Iterator, Set

from iqa_armor.report.attack_figures import RANKED_AT, Comparison, compare, figures_of, headline
from iqa_armor.report.document import Verdict
from iqa_armor.report.formatting import budget, listed, short
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

STATES = {
    "caution": "Caution: a strength check failed, so these figures may be too good.",
    "better": "Better than the baseline where these images tell them apart.",
    "worse": "Worse than the baseline where these images tell them apart.",
    "mixed": "Better than the baseline in some figures, worse in others.",
    "open": "These images do not tell model and baseline apart.",
    "alone": "No baseline to compare with.",
}
WORDS = {"mixed": "better in some figures and worse in others", "open": "not separable"}
MOST_DEFENDED = 4  # defended models, each with a sentence of its own
VERBS = {1: "raises", -1: "lowers"}  # what attacks do to scores, by their sign


def verdict(outcome: Outcome) -> Verdict:
    """Return the conclusions: one sentence per compared model; of many defended ones, one per model behind them."""
    failed = [(model.name, check) for model in outcome.models for check in model.checks if check.status == "failed"]
    why = [check.says + f" ({listed(check.figures)})" * bool(check.figures) for _, check in failed]
    warnings = tuple((f"{name}: {check.name} failed.", says) for (name, check), says in zip(failed, why, strict=True))
    readings = [{row.reading for row in _spoken(outcome, model).values()} for model in outcome.compared]
    standings = [_together(each) for each in readings]
    is_compared = any(compare(outcome, model) for model in outcome.compared)
    state = "caution" if warnings else _together(set(standings)) if is_compared else "alone"
    defended = [model for model in outcome.compared if model.threat is not None]
    behind = defended if len(defended) > MOST_DEFENDED else []
    sentences = [_conclusion(outcome, model) for model in outcome.compared if model not in behind]
    sentences += [_behind(outcome, name) for name in dict.fromkeys(model.defends for model in behind)]
    synthetic = ", ".join(entry.spec for entry in outcome.data if entry.is_synthetic)
    caveat = f"Images and scores of {synthetic} are generated: no human opinion stands behind these figures."
    says = STATES[state]
    if state not in ("caution", "alone") and len(set(standings)) > 1:
        counts = (f"{standings.count(kind)} {WORDS.get(kind, kind)}" for kind in STATES if kind in standings)
        says = f"{len(standings)} models against the baseline: {', '.join(counts)}."
    return Verdict(state, says, warnings, tuple(sentences), (caveat,) if synthetic else ())


def _together(readings: Set[str]) -> str:
    """Return whether readings speak for a model, against it, both ways or neither."""
    if {"better", "worse"} <= readings:
        return "mixed"
    return next((state for state in ("mixed", "better", "worse") if state in readings), "open")


def _conclusion(outcome: Outcome, model: ModelEntry) -> str:
    rows = _spoken(outcome, model)
    if not rows:
        return _alone(outcome, model)
    parts = [f"{what} {short(row.baseline)} → {short(row.value)} ({row.reading})" for what, row in rows.items()]
    sentence = f"{model.name} against {outcome.baseline}: {', '.join(parts)}."
    disagree = "Gain and ranking under attack disagree: believe the worst-case SROCC, which no common shift flatters."
    read = {row.reading for what, row in rows.items() if what != "clean SROCC"}
    return f"{sentence} {disagree}" if read == {"better", "worse"} else sentence


def _alone(outcome: Outcome, model: ModelEntry) -> str:
    attack, key = headline(outcome)
    figures, worst = model.attacks.get(attack), model.worst_case_srocc.get(RANKED_AT)
    if figures is None:
        return f"{model.name}: SROCC {short(model.srocc)}, not attacked."
    gain = figures.abs_gain.get(key)
    moved = None if gain is None else gain * outcome.settings.sign
    says = f"{attack} at {budget(key)} {VERBS[outcome.settings.sign]} scores by {short(moved)} of their range"
    if model.srocc is not None and worst is not None:
        ranked = f"clean SROCC {short(model.srocc)}, worst-case SROCC {short(worst)} at {budget(RANKED_AT)}"
        return f"{model.name}: {ranked}. {says}."
    if model.srocc is not None:
        says += f" and takes SROCC from {short(model.srocc)} to {short(figures.srocc.get(key))}"
    return f"{model.name}: {says}."


def _spoken(outcome: Outcome, model: ModelEntry) -> dict[str, Comparison]:
    """Return the comparisons that a conclusion speaks of, by the words it uses for them."""
    attack, key = headline(outcome)
    at, worst = f"{attack} at {budget(key)}", f"SROCC at {budget(RANKED_AT)}"
    words = {"SROCC": "clean SROCC", f"Worst-case {worst}": f"worst-case {worst}", f"SROCC, {at}": f"SROCC under {at}"}
    words |= dict.fromkeys((f"AbsGainAUC {attack}", f"AbsGain {attack}"), f"{attack} gain")
    return {words[row.figure]: row for row in compare(outcome, model) if row.figure in words}


def _behind(outcome: Outcome, name: str) -> str:
    attack, key = headline(outcome)
    models = [model for model in outcome.models if model.defends == name]
    count = len({model.defense for model in models})
    start = f"{name} behind {count} defense{'s' if count > 1 else ''}: {attack} at {budget(key)}"
    spans = []  # from which defense to which the gain goes, for each threat
    for threat, words in (("adaptive", "where it knows the defense"), ("bare", "where it does not")):
        gains = [(figures_of(m, attack).abs_gain.get(key), m.defense) for m in models if m.threat == threat]
        found = sorted((gain * outcome.settings.sign, word) for gain, word in gains if gain is not None)
        if found:
            (low, least), (high, most) = found[0], found[-1]
            span = f"{short(low)} ({least})" + (f" to {short(high)} ({most})" if len(found) > 1 else "")
            spans.append(f"by {span} of their range {words}")
    return f"{start} {VERBS[outcome.settings.sign]} scores {'; '.join(spans)}."


HALF = 22  # columns of the terminal for an SROCC of 1, and as many for -1


def ranking_bars(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of a plot of SROCC, clean and where each image is attacked to turn the ranking round."""
    names = max(len(model.name) for model in outcome.models)
    yield f"{'':{names + 9}}{'turned round':<{HALF}}0{'as people rank':>{HALF}}"
    for key in ("", *outcome.models[0].worst_case_srocc):
        for place, model in enumerate(outcome.models):
            value = _ranked(model, key)
            columns = round(HALF * abs(value))
            left, right = ("█" * columns if is_here else "" for is_here in (value < 0, value >= 0))
            heading = "" if place else budget(key) if key else "clean"
            yield f"{heading:8} {model.name:{names}}{left:>{HALF}}│{right:<{HALF}} {short(value)}"


def in_plain_words(outcome: Outcome) -> Iterator[str]:
    """Yield what an attack nobody sees does to the first and the last model, and what the difference cost."""
    first, last = outcome.models[0], outcome.models[-1]
    falls = (f"{model.name} from {short(model.srocc)} to {short(_ranked(model, RANKED_AT))}" for model in (first, last))
    yield (
        f"A change of every pixel by at most {budget(RANKED_AT)}, which nobody sees, takes the ranking by "
        f"{' and that by '.join(falls)} (1: as people rank, 0: chance, below 0: turned round)."
    )
    cost = (first.srocc or 0) - (last.srocc or 0)
    yield f"On images that nobody changed, {last.name} ranks {'worse' if cost > 0 else 'better'} by {short(abs(cost))}."


def _ranked(model: ModelEntry, key: str) -> float:
    return (model.worst_case_srocc[key] if key else model.srocc) or 0.0
