import json
import math
from typing import Any

import pytest

from iqa_armor.errors import DataError, UsageError
from iqa_armor.results.arithmetic import divide, weighted_mean
from iqa_armor.results.entries import AttackFigures, Differences, Interval, ModelEntry, Ratios, Scale
from iqa_armor.results.figures import epsilon_key
from iqa_armor.results.outcome import DataEntry, Outcome, Settings
from iqa_armor.results.requirements import parse_requirement, require_path


def entry(name: str, *, gain: float | None = 1.0, drop: float | None = None) -> ModelEntry:
    attack = AttackFigures(abs_gain={"2": 0.1, "4": gain}, srocc={"2": 0.5, "4": math.nan}, abs_gain_auc=gain)
    return ModelEntry(
        name=name,
        srocc=0.9,
        srocc_drop=drop,
        parameters=10,
        scale=Scale(low=0, high=1),
        attacks={"pgd8": attack},
        ratio_to_baseline=None if drop is None else Ratios(attacks={"pgd8": AttackFigures(abs_gain_auc=gain)}),
        difference_to_baseline=None if drop is None else Differences(srocc=Interval(value=-drop, low=-0.3, high=0.1)),
    )


def outcome(*models: ModelEntry, baseline: str | None = None) -> Outcome:
    return Outcome(
        models=models,
        baseline=baseline,
        data=(DataEntry(spec="csv:a.b.csv", split="test", images=3, has_scores=True, weight=2.0, fingerprint="ab"),),
        settings=Settings(
            attacks={"pgd8": {"type": "PGD", "steps": 8}},
            epsilons=(2, 4),
            batch_size=8,
            resamples=100,
            confidence=0.95,
        ),
        versions={"iqa_armor": "0"},
    )


BASE, HARD = entry("base", gain=2.0), entry("hard", gain=0.5, drop=0.02)
BOTH = outcome(BASE, HARD, baseline="base")


def test_json_round_trip_is_equal_and_speaks_strict_json() -> None:
    text = BOTH.to_json()
    assert Outcome.from_json(text) == BOTH
    assert BOTH.model_dump(mode="json") == json.loads(text)
    stored = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert stored["schema"] == "iqa-armor/evaluation/1"
    assert stored["models"][0]["attacks"]["pgd8"]["srocc"] == {"2": 0.5, "4": None}
    assert next(iter(stored["models"][0])) == "name"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", "models: Field required"),
        ("no json", "the file"),
        (BOTH.to_json().replace("evaluation/1", "evaluation/2"), "schema"),
        (BOTH.to_json().replace('"name"', '"nome"', 1), "models.0.n"),
    ],
)
def test_other_json_is_refused(text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Outcome.from_json(text)


def test_epsilon_keys_are_in_255ths() -> None:
    assert [epsilon_key(e / 255) for e in (2, 0.5, 10, 255)] == ["2", "0.5", "10", "255"]


def test_ratio_is_null_unless_the_baseline_is_positive() -> None:
    figures = {"a": 1.0, "b": 1.0, "c": 1.0, "d": None, "e": {"x": 3.0}, "f": 1.0}
    baseline = {"a": 2.0, "b": 0.0, "c": -1.0, "d": 1.0, "e": {"x": 2.0}, "f": math.nan}
    assert divide(figures, baseline) == {
        "a": 0.5,
        "b": None,
        "c": None,
        "d": None,
        "e": {"x": 1.5},
        "f": None,
    }


def test_weighted_mean_leaves_out_what_is_absent_and_keeps_what_failed() -> None:
    items = [{"a": 1.0, "s": 0.9, "n": math.nan, "e": {"2": 3.0}}, {"a": 4.0, "n": 1.0, "e": {"2": 0.0}}]
    mean = weighted_mean(items, [2, 1])
    assert mean["a"] == pytest.approx(2.0)
    assert mean["s"] == pytest.approx(0.9)
    assert mean["e"] == {"2": pytest.approx(2.0)}
    assert math.isnan(mean["n"])
    assert weighted_mean([{"a": 1.0}, {}], [0, 1]) == {"a": None}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("srocc_drop <= 0.02", True),
        ("srocc_drop<0.02", False),
        ("srocc_drop >= 0.02", True),
        ("srocc_drop > 2e-2", False),
        ("srocc_drop == 0.02", True),
        ("srocc_drop != 0.02", False),
        ("ratio_to_baseline.attacks.pgd8.abs_gain_auc <= 0.8", True),
        ("attacks.pgd8.abs_gain.4 <= 0.4", False),
        ("attacks.pgd8.srocc.4 <= 1", False),  # nan
        ("attacks.pgd8.r_score.2 >= -9", False),  # not there
        ("datasets.csv:a.b.csv.srocc > 0", False),  # not there
        ("difference_to_baseline.srocc.low > -1", True),
        ("difference_to_baseline.attacks.pgd8.srocc.4.low > -1", False),  # not there
    ],
)
def test_requirement_holds_or_fails(text: str, holds: bool) -> None:
    failures = check(parse_requirement(text), BOTH)
    assert [failure.model for failure in failures] == ([] if holds else ["hard"])


def test_failure_says_by_how_much() -> None:
    (failure,) = check(parse_requirement("srocc_drop <= 0.01"), BOTH)
    assert failure.excess == pytest.approx(0.01)
    assert str(failure) == "hard: srocc_drop <= 0.01 fails by 0.01, the value is 0.02"
    (undefined,) = check(parse_requirement("attacks.pgd8.srocc.4 <= 1"), BOTH)
    assert str(undefined) == "hard: attacks.pgd8.srocc.4 <= 1 fails, the value is not defined"


def test_every_model_but_the_baseline_is_checked() -> None:
    text = "attacks.pgd8.abs_gain_auc <= 0.1"
    three = outcome(BASE, HARD, entry("harder", gain=0.3, drop=0.0), baseline="base")
    assert [f.model for f in check(parse_requirement(text), three)] == ["hard", "harder"]
    assert [f.model for f in check(parse_requirement(text), outcome(BASE))] == ["base"]
    assert [f.model for f in check(parse_requirement(text), outcome(BASE, HARD))] == ["base", "hard"]


def test_requirement_beside_a_baseline_fails_without_one() -> None:
    (failure,) = check(parse_requirement("ratio_to_baseline.attacks.pgd8.abs_gain_auc <= 9"), outcome(BASE))
    assert failure.value is None


@pytest.mark.parametrize("text", ["", "srocc", "srocc <=", "<= 1", "srocc <= much", "srocc <= nan", "srocc = 1"])
def test_unreadable_requirement_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="PATH OPERATOR NUMBER"):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("sroc_drop <= 1", "srocc_drop"),
        ("attacks.pgd9.abs_gain_auc <= 1", "attacks.pgd8.abs_gain_auc"),
        ("attacks.pgd8.abs_gain.3 <= 1", "attacks.pgd8.abs_gain.[24]"),
        ("name == 1", "arch|name|srocc|flops|plcc|timing|parameters|scale"),
    ],
)
def test_unknown_path_names_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '[^']*({nearest})"):
        check(parse_requirement(text), BOTH)


def test_path_can_be_refused_before_anything_is_evaluated() -> None:
    names: dict[str, Any] = {"budgets": {"pgd1": ["4"], "stadv": ["1"]}, "datasets": []}
    require_path(parse_requirement("ratio_to_baseline.timing.seconds_per_image <= 2"), **names)
    with pytest.raises(UsageError, match=r"did you mean 'attacks\.pgd1"):
        require_path(parse_requirement("attacks.pgd8.srocc.4 >= 0"), **names)
    for path in ("attacks.stadv.abs_gain.1", "worst_case.abs_gain_auc", "ratio_to_baseline.worst_case.abs_gain.4"):
        require_path(parse_requirement(f"{path} <= 1"), **names)


def test_compared_models_leave_out_the_baseline() -> None:
    assert [model.name for model in BOTH.compared] == ["hard"]
    assert BOTH.baseline_entry == BASE
    assert outcome(BASE).baseline_entry is None
