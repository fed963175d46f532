"""How an evaluation was run, in words."""

from __future__ import annotations

from collections.abc import Iterator

from iqa_armor.report.notation import NORMS, listed, plain
from iqa_armor.report.reading import has_own_budget
from iqa_armor.results.outcome import DataEntry, Outcome


def reach(outcome: Outcome) -> str:
    """Return which attacks were run within what."""
    settings = outcome.settings
    shared = [name for name in settings.attacks if not has_own_budget(outcome, name)]
    own = [name for name in settings.attacks if has_own_budget(outcome, name)]
    if not shared and not own:
        return "No attack was run."
    verb = "raise" if settings.direction > 0 else "lower"
    budgets = ", ".join(f"{epsilon:g}" for epsilon in settings.epsilons)
    norms = sorted({_norm(outcome, name) for name in shared})
    parts = [f"within ε = {budgets} /255 ({', '.join(norms)})"] if shared else []
    parts += [f"{', '.join(own)} at one budget of {'its' if len(own) == 1 else 'their'} own"] if own else []
    return f"Attacks {verb} scores {'; '.join(parts)}."


def starred(outcome: Outcome, attack: str) -> str:
    """Return the name of an attack, marked where it was run at one budget of its own."""
    return f"{attack}*" if has_own_budget(outcome, attack) else attack


def star_note(outcome: Outcome) -> str:
    """Return what the mark of `starred` means; empty where nothing is marked."""
    is_marked = any(has_own_budget(outcome, name) for name in outcome.settings.attacks)
    return "* Run at one budget of its own: the figure there, no mean over ε." if is_marked else ""


def data_line(entry: DataEntry) -> str:
    """Return what was evaluated of a dataset and its weight."""
    scores = "" if entry.has_scores else ", no opinion scores"
    return f"{entry.spec}: {entry.images} {entry.split} images{scores}, weight {entry.weight:g}"


def intervals(outcome: Outcome) -> str:
    """Return how intervals were made."""
    settings = outcome.settings
    return f"Intervals: paired bootstrap over images, {settings.resamples} resamples, seed {settings.seed}."


def facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yield settings, data and versions as names with values, all that repeats the evaluation."""
    settings = outcome.settings
    for name, values in settings.attacks.items():
        yield f"Attack {name}", listed(values) or "its defaults"
    yield "Budgets ε", f"{', '.join(f'{epsilon:g}' for epsilon in settings.epsilons)} (lengths in 1/255)"
    yield "Direction", "attacks raise scores" if settings.direction > 0 else "attacks lower scores"
    yield "Batches", f"{settings.batch_size} images on {settings.device}, seed {settings.seed}"
    yield "Limit", "none" if settings.limit is None else f"{settings.limit} images of each dataset"
    yield "Intervals", f"{settings.resamples} resamples, {settings.confidence * 100:g} %"
    for entry in outcome.data:
        size = ", images at their own size" if entry.keeps_size else ""
        yield "Data", f"{data_line(entry)}{size}, fingerprint {entry.fingerprint}"
    if any(model.threat == "adaptive" for model in outcome.models):
        yield "Random defenses", f"adaptive attacks average over draws (EOT): {settings.eot}"
    names = {model.name for model in outcome.models}
    for model in outcome.models:
        if model.defends in names:
            continue  # it has the scale of that
        scale, better = model.scale, "higher" if model.scale.higher_is_better else "lower"
        limits = f"{plain(scale.low)} to {plain(scale.high)}, {better} is better"
        yield f"Score range of {model.name}", f"{limits} ({scale.source})"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in outcome.versions.items()) or "not recorded"


def _norm(outcome: Outcome, attack: str) -> str:
    # Only attacks that are limited otherwise name their norm.
    norm = str(outcome.settings.attacks[attack].get("norm", "linf"))
    return NORMS.get(norm, norm)
