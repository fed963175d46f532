import io

import pytest
from rich.console import Console

from iqa_armor.report import TerminalReport, compare, headline, verdict
from iqa_armor.results import (
    AttackDifferences,
    AttackFigures,
    DataEntry,
    Differences,
    Interval,
    ModelEntry,
    Outcome,
    Scale,
    Settings,
)

EPSILONS = ("2", "4", "6", "8", "10")


def entry(name: str, *, srocc: float, gain: float, under: float, difference: Differences | None = None) -> ModelEntry:
    attacks = {
        attack: AttackFigures(
            abs_gain=dict.fromkeys(EPSILONS, scale * gain),
            srocc=dict.fromkeys(EPSILONS, under),
            abs_gain_auc=scale * gain,
            r_score_auc=-0.293,
            abs_gain_std_auc=5.4,
        )
        for attack, scale in (("pgd1", 0.25), ("pgd8", 1.0))
    }
    return ModelEntry(
        name=name,
        srocc=srocc,
        plcc=srocc + 0.01,
        parameters=25_557_032,
        flops=26_000_000_000,
        scale=Scale(low=0, high=1),
        attacks=attacks,
        difference_to_baseline=difference,
    )


def interval(low: float, high: float) -> Interval:
    return Interval(value=(low + high) / 2, low=low, high=high)


def attack_difference(gain: Interval, under: Interval) -> AttackDifferences:
    return AttackDifferences(abs_gain_auc=gain, srocc={"4": under}, r_score_auc=interval(-0.01, 0.02))


DIFFERENCE = Differences(
    srocc=interval(-0.012, 0.002),
    attacks={name: attack_difference(interval(-0.6, -0.2), interval(-0.25, -0.07)) for name in ("pgd1", "pgd8")},
)
BASE = entry("linearity", srocc=0.926, gain=1.821, under=0.44)
HARD = entry("linearity-hardened-cayley-random", srocc=0.921, gain=1.481, under=0.28, difference=DIFFERENCE)


def outcome(
    *models: ModelEntry, baseline: str | None = None, is_synthetic: bool = False, direction: int = 1
) -> Outcome:
    data = DataEntry(
        spec="synthetic" if is_synthetic else "csv:labels.csv",
        split="test",
        images=116,
        has_scores=True,
        is_synthetic=is_synthetic,
        weight=2.0,
        fingerprint="ab",
    )
    settings = {"attacks": {"pgd1": {}, "pgd8": {}}, "epsilons": (2, 4, 6, 8, 10), "direction": direction}
    return Outcome(
        models=models,
        baseline=baseline,
        data=(data,),
        settings=Settings.model_validate(settings | {"batch_size": 8, "resamples": 1000, "confidence": 0.95}),
        versions={},
    )


def shown(value: Outcome, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(TerminalReport(value))
    return console.file.getvalue()  # type: ignore[attr-defined]


BOTH = outcome(BASE, HARD, baseline="linearity")


@pytest.mark.parametrize("width", [80, 120])
def test_report_fits_and_shows_the_figures_of_the_paper(width: int) -> None:
    text = shown(BOTH, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for figure in (".926/.936", ".455/1.821", "-.293/-.293", ".440", "-.400 [-.600, -.200]", "× 0.81"):
        assert figure in text
    assert ("25,557,032" in text) == (width == 120)
    assert "csv:labels.csv: 116 test images" in text


def test_readings_follow_the_intervals() -> None:
    readings = {row.figure: row.reading for row in compare(BOTH, HARD)}
    assert readings["SROCC"] == "not separable"
    assert readings["SROCC, pgd8 at 4/255"] == "worse"
    assert readings["AbsGainAUC pgd8"] == "better"
    assert readings["R-ScoreAUC pgd8"] == "not separable"


def test_gain_reads_the_other_way_when_attacks_lower_scores() -> None:
    downwards = outcome(BASE, HARD, baseline="linearity", direction=-1)
    assert {row.figure: row.reading for row in compare(downwards, HARD)}["AbsGainAUC pgd8"] == "worse"


def test_verdict_warns_when_gain_and_ranking_disagree() -> None:
    (sentence,) = verdict(BOTH)
    assert sentence.startswith("linearity-hardened-cayley-random against linearity: clean SROCC .926 → .921 (not")
    assert "pgd8 gain 1.821 → 1.481 (better)" in sentence
    assert "SROCC under pgd8 at 4/255 .440 → .280 (worse)" in sentence
    assert "disagree" in sentence


def test_verdict_of_a_lone_model_says_what_the_attack_does() -> None:
    (sentence,) = verdict(outcome(BASE))
    expected = "pgd8 at 4/255 raises scores by 1.821 of their range and takes SROCC from .926 to .440."
    assert sentence == f"linearity: {expected}"
    assert "Difference" not in shown(outcome(BASE), 80)


def test_verdict_says_when_data_are_synthetic() -> None:
    assert "no human opinion" in verdict(outcome(BASE, is_synthetic=True))[-1]


def test_undefined_figures_are_dashes() -> None:
    bare = ModelEntry(name="bare", parameters=1, scale=Scale(low=0, high=1), attacks=BASE.attacks)
    assert "–/–" in shown(outcome(bare), 80)


def test_headline_is_the_last_attack_and_middle_budget_where_pgd8_did_not_run() -> None:
    settings = BOTH.settings.model_copy(update={"attacks": {"pgd1": {}, "pgd50": {}}, "epsilons": (1.0, 2.0, 8.0)})
    assert headline(BOTH.model_copy(update={"settings": settings})) == ("pgd50", "2")
