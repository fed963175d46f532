"""How an evaluation was run, and what its figures are, in words."""

import re
from collections.abc import Iterator

from iqa_armor.report.formatting import listed, plain
from iqa_armor.results.figure_registry import FIGURES
from iqa_armor.results.outcome import DataEntry, Outcome

DEFINITIONS = {
    "SROCC, PLCC": "Rank and linear correlation of a model's scores with human opinion (MOS); 1 is perfect agreement. "
    "PLCC is raw, without a fitted curve. Scores of models for which lower is better are turned round first.",
    "AbsGain": "Mean change of the score under attack, with its sign, as a share of the model's own score range on "
    "clean training images (arXiv 2506.04951, eq. 8). Near 0 is robust. A model whose range grew looks more robust "
    "than it is.",
    "Gain in std": "The same change in standard deviations of the model's clean scores, which one outlier does not "
    "stretch.",
    "R-Score": "Mean over images of log₁₀ of the largest possible change of the score over the actual one (eq. 9). "
    "High is robust; below 0 scores have left the range.",
    "AUC": "Area under a figure over the budgets, divided by their range, so that it reads as a mean over ε. An "
    "attack with one budget has no area: its figure at that budget stands instead.",
    "SROCC under attack": "Agreement of the attacked scores with opinion, every image being attacked. Widening the "
    "score range or saturating the output does not help here, so read it beside the gain, and before it where the two "
    "disagree.",
    "Quality and gain score of a purifier": "Quality is (SSIM + PSNR/80)/2 of the purified image against the clean "
    "one; 1 is the image itself. Gain score is the change of the score from that of the clean image without purifier, "
    "divided by the latter, both in the model's score range (arXiv 2404.06957; at least 0.05 stands below the line). "
    "It also counts what the purifier does to clean scores.",
    "Worst case": "For each image and budget, the attack that moved the score farthest, among those run at every "
    "budget.",
}


def definitions(*, has_purifiers: bool) -> tuple[tuple[str, str], ...]:
    """Return what the figures are by their names."""
    told = " ".join(DEFINITIONS)
    others = {each.label: f"{each.says[0].upper()}{each.says[1:]}." for each in FIGURES if each.label not in told}
    return tuple(
        each for each in (DEFINITIONS | others).items() if has_purifiers or not re.search("[Pp]urifi", " ".join(each))
    )


def data_line(entry: DataEntry) -> str:
    """Return what was evaluated of a dataset and its weight."""
    scores = "" if entry.has_scores else ", no opinion scores"
    return f"{entry.spec}: {entry.images} {entry.split} images{scores}, weight {entry.weight:g}"


def conditions(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yield settings, data and versions as names with values, all that repeats the evaluation."""
    settings = outcome.settings
    for name, values in settings.attacks.items():
        yield f"Attack {name}", listed(values) or "its defaults"
    yield "Budgets ε", f"{', '.join(f'{epsilon:g}' for epsilon in settings.epsilons)} (lengths in 1/255)"
    ways = {1: "attacks raise scores", -1: "attacks lower scores", "rank": "attacks turn the ranking round"}
    yield "Direction", ways[settings.direction]
    if settings.ranking != "none":
        yield "Ranking", f"{settings.ranking}, ε = {', '.join(settings.ranking_keys())}"
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
        if model.defends not in names:  # else it has the scale of that
            scale, better = model.scale, "higher" if model.scale.higher_is_better else "lower"
            limits = f"{plain(scale.low)} to {plain(scale.high)}, {better} is better"
            yield f"Score range of {model.name}", f"{limits} ({scale.source})"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in outcome.versions.items()) or "not recorded"
