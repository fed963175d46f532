import io

import pytest
from rich.console import Console

from iqa_armor.report.attack_figures import area, compare, distinct, headline
from iqa_armor.report.evaluation import evaluation_report
from iqa_armor.report.terminal import TerminalReport
from iqa_armor.report.verdicts import in_plain_words, ranking_bars, verdict
from iqa_armor.results.figures import (
    AttackDifferences,
    AttackFigures,
    Differences,
    Interval,
    ModelEntry,
    Scale,
    StrengthCheck,
)
from iqa_armor.results.outcome import DataEntry, Outcome, Settings

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
    console.print(TerminalReport(evaluation_report(value)))
    return console.file.getvalue()  # type: ignore[attr-defined]


BOTH = outcome(BASE, HARD, baseline="linearity")


@pytest.mark.parametrize("width", [80, 120])
def test_report_fits_and_shows_the_figures_of_the_paper(width: int) -> None:
    text = shown(BOTH, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for figure in (".926/.936", ".455/1.821", "-.293/-.293", ".440", "-.400  [-.600, -.200]", "× 0.81"):
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
    (sentence,) = verdict(BOTH).sentences
    assert sentence.startswith("linearity-hardened-cayley-random against linearity: clean SROCC .926 → .921 (not")
    assert "pgd8 gain 1.821 → 1.481 (better)" in sentence
    assert "SROCC under pgd8 at 4/255 .440 → .280 (worse)" in sentence
    assert "disagree" in sentence


def test_verdict_of_a_lone_model_says_what_the_attack_does() -> None:
    (sentence,) = verdict(outcome(BASE)).sentences
    expected = "pgd8 at 4/255 raises scores by 1.821 of their range and takes SROCC from .926 to .440."
    assert sentence == f"linearity: {expected}"
    assert "Difference" not in shown(outcome(BASE), 80)


def test_verdict_says_when_data_are_synthetic() -> None:
    assert "no human opinion" in verdict(outcome(BASE, is_synthetic=True)).caveats[0]


def test_undefined_figures_are_dashes() -> None:
    bare = ModelEntry(name="bare", parameters=1, scale=Scale(low=0, high=1), attacks=BASE.attacks)
    assert "–/–" in shown(outcome(bare), 80)


def test_headline_is_the_last_attack_and_middle_budget_where_pgd8_did_not_run() -> None:
    settings = BOTH.settings.model_copy(update={"attacks": {"pgd1": {}, "pgd50": {}}, "epsilons": (1.0, 2.0, 8.0)})
    assert headline(BOTH.model_copy(update={"settings": settings})) == ("pgd50", "2")


def changed(model: ModelEntry, **changes: object) -> ModelEntry:
    return model.model_copy(update=changes)


def running(value: Outcome, *attacks: str) -> Outcome:
    settings = value.settings.model_copy(update={"attacks": {name: {} for name in attacks}})
    return value.model_copy(update={"settings": settings})


FAILED = StrengthCheck(name="black box", status="failed", says="Square did more than APGD.", figures={"square": 0.9})
PASSED = StrengthCheck(name="steps", status="passed", says="More steps did more.", figures={"pgd50": 1.9})
OWN = AttackFigures(abs_gain={"own": 0.125}, r_score={"own": 0.75}, srocc={"own": 0.625})


def colored(value: Outcome) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(TerminalReport(evaluation_report(value)))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_failed_checks_stand_under_a_yellow_verdict() -> None:
    value = outcome(BASE, changed(HARD, checks=(PASSED, FAILED)), baseline="linearity")
    assert [what for what, _ in verdict(value).warnings] == [f"{HARD.name}: black box failed."]
    first, *rest = colored(value).splitlines()
    assert first.startswith("\x1b[1;33m")
    caution = next(line for line in rest if f"{HARD.name}: black box failed." in line)
    assert caution.startswith("\x1b[33m")
    assert "\x1b[33m" not in colored(outcome(BASE, changed(HARD, checks=(PASSED,)), baseline="linearity"))


def test_checks_have_a_table_with_their_figures() -> None:
    text = shown(outcome(changed(BASE, checks=(PASSED, FAILED))), 80).replace("\u00a0", " ")
    assert "square = 0.9" in text
    assert "pgd50 = 1.9" in text
    assert "Were the attacks strong?" not in shown(outcome(BASE), 80)


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("attacks", [("pgd1", "pgd8"), ("pgd1", "pgd8", "apgd"), ("a-very-long-name-of-an-attack",)])
def test_worst_case_is_shown_within_the_width(width: int, attacks: tuple[str, ...]) -> None:
    found = AttackFigures(abs_gain=dict.fromkeys(EPSILONS, 0.777), abs_gain_auc=0.777, srocc={"4": 0.111})
    figures = dict.fromkeys(attacks, BASE.attacks["pgd8"])
    text = shown(running(outcome(changed(BASE, worst_case=found, attacks=figures)), *attacks), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert ".777" in text
    assert "worst case" in text.lower()
    assert ("25,557,032" in text) == (width == 140)


def test_worst_case_is_compared_with_the_baseline() -> None:
    part = attack_difference(interval(-0.6, -0.2), interval(-0.25, -0.07))
    models = [changed(model, worst_case=model.attacks["pgd8"]) for model in (BASE, HARD)]
    hard = changed(models[1], difference_to_baseline=DIFFERENCE.model_copy(update={"worst_case": part}))
    readings = {row.figure: row.reading for row in compare(outcome(models[0], hard, baseline="linearity"), hard)}
    assert readings["SROCC, worst case at 4/255"] == "worse"
    assert readings["AbsGainAUC worst case"] == "better"


def test_attack_at_its_own_budget_is_marked_and_its_figure_shown() -> None:
    model = changed(BASE, attacks={"pgd8": BASE.attacks["pgd8"], "stadv": OWN})
    value = running(outcome(model), "pgd8", "stadv")
    text = shown(value, 80)
    assert "pgd8/stadv*" in text
    assert "1.821/.125" in text
    assert "stadv at one budget of its own" in " ".join(text.split())
    assert headline(value) == ("pgd8", "4")


def test_headline_leaves_attacks_at_their_own_budget_to_the_last() -> None:
    model = changed(BASE, attacks={"pgd1": BASE.attacks["pgd1"], "stadv": OWN})
    assert headline(running(outcome(model), "pgd1", "stadv")) == ("pgd1", "4")
    alone = running(outcome(changed(BASE, attacks={"stadv": OWN})), "stadv")
    assert headline(alone) == ("stadv", "own")
    assert (
        verdict(alone)
        .sentences[0]
        .startswith("linearity: stadv at its own budget raises scores by .125 of their range")
    )


def test_attack_that_moved_scores_the_wrong_way_is_not_said_to_have_raised_them() -> None:
    wrong = entry("odd", srocc=0.9, gain=-0.25, under=0.8)
    assert "raises scores by -.250" in verdict(outcome(wrong)).sentences[0]
    assert "lowers scores by .250" in verdict(outcome(wrong, direction=-1)).sentences[0]


def test_brackets_in_names_are_no_markup() -> None:
    base = changed(BASE, name="base[/red]", checks=(FAILED.model_copy(update={"name": "[bold]box"}),))
    text = shown(outcome(base, changed(HARD, name="[/]hard"), baseline="base[/red]"), 120)
    assert "Difference to base[/red]" in text
    assert "[bold]box" in text
    assert "[/]hard" in text


def defended(threat: str, **figures: object) -> ModelEntry:
    own = {"defense": "jpeg:quality=60+flip", "defends": "linearity", "threat": threat, "clean_quality": 0.875}
    attacks = {
        name: changed(found, quality=dict.fromkeys(EPSILONS, 0.75), gain_score=dict.fromkeys(EPSILONS, 0.625))
        for name, found in BASE.attacks.items()
    }
    return changed(BASE, name=f"linearity + jpeg:quality=60 + flip {threat}", attacks=attacks, **own | figures)


@pytest.mark.parametrize("width", [80, 120])
def test_purifiers_have_a_table_within_the_width(width: int) -> None:
    text = shown(outcome(BASE, defended("adaptive"), defended("bare")), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "+ jpeg:" in text
    assert ("unaware" in text, "adaptive" in text) == (True, True)
    assert (".750/.750/.750" in text) == (width == 120)
    assert (".926/.926" in text) == (width == 120)
    assert ".625" in text
    assert "Purifier" not in shown(BOTH, width)


def test_smoothed_scores_are_in_no_table_of_purifiers() -> None:
    assert "Purifier" not in shown(outcome(BASE, changed(BASE, name="s", defense="ms", threat="adaptive")), 120)


def test_budgets_that_an_attack_cannot_spend_count_once() -> None:
    gain = dict.fromkeys(("2", "4", "6"), 0.4)
    spent = AttackFigures(abs_gain=gain, max_linf=dict.fromkeys(gain, 1.0), abs_gain_auc=0.4)
    assert (distinct(spent), area(spent, "abs_gain")) == (["2"], 0.4)
    rising = AttackFigures(
        abs_gain={"2": 0.2, "4": 0.4, "8": 0.8, "16": 0.8},
        max_linf={"2": 2.0, "4": 4.0, "8": 8.0, "16": 8.0},
        abs_gain_auc=0.7,
    )
    assert distinct(rising) == ["2", "4", "8"]
    assert area(rising, "abs_gain") == pytest.approx(0.5)
    assert area(rising, "abs_gain", over_all=True) == 0.7
    blank, unmeasured = AttackFigures(), AttackFigures(abs_gain=gain, abs_gain_auc=0.4)
    assert (distinct(blank), area(blank, "abs_gain")) == ([], None)
    assert distinct(unmeasured) == ["2", "4", "6"]


def test_plain_words_and_bars_say_what_is_left_of_the_ranking() -> None:
    before = changed(BASE, name="demo", worst_case_srocc={"1": -0.5, "4": -1.0})
    after = changed(HARD, name="hardened", worst_case_srocc={"1": 0.25, "4": 0.0})
    found = outcome(before, after, baseline="demo")
    first, second = in_plain_words(found)
    assert "demo from .926 to -.500 and that by hardened from .921 to .250" in first
    assert second == "On images that nobody changed, hardened ranks worse by .005."
    heading, *bars = ranking_bars(found)
    assert [bar.count("█") for bar in bars] == [20, 20, 11, 6, 22, 0]
    assert len({bar.index("│") for bar in bars} | {heading.index(" 0 ") + 1}) == 1
    assert max(map(len, (heading, *bars))) < 80
