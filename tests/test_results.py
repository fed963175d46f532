import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iqa_armor.errors import DataError, UsageError
from iqa_armor.evaluation.comparison import divide, weighted_mean
from iqa_armor.evaluation.reductions import REDUCTIONS
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.results.figure_registry import FIGURES
from iqa_armor.results.figures import AttackFigures, Differences, Interval, ModelEntry, Ratios, Scale
from iqa_armor.results.outcome import DataEntry, Outcome, Settings
from iqa_armor.results.requirements import known_paths, parse_requirement, require_path, unmet


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
    failures = unmet(parse_requirement(text), BOTH)
    assert list(failures) == ([] if holds else ["hard"])


def test_failure_says_by_how_much() -> None:
    (failure,) = unmet(parse_requirement("srocc_drop <= 0.01"), BOTH).values()
    assert failure == "hard: srocc_drop <= 0.01 fails by 0.01, the value is 0.02"
    (undefined,) = unmet(parse_requirement("attacks.pgd8.srocc.4 <= 1"), BOTH).values()
    assert undefined == "hard: attacks.pgd8.srocc.4 <= 1 fails, the value is not defined"


def test_every_model_but_the_baseline_is_checked() -> None:
    text = "attacks.pgd8.abs_gain_auc <= 0.1"
    three = outcome(BASE, HARD, entry("harder", gain=0.3, drop=0.0), baseline="base")
    assert list(unmet(parse_requirement(text), three)) == ["hard", "harder"]
    assert list(unmet(parse_requirement(text), outcome(BASE))) == ["base"]
    assert list(unmet(parse_requirement(text), outcome(BASE, HARD))) == ["base", "hard"]


def test_requirement_beside_a_baseline_fails_without_one() -> None:
    (failure,) = unmet(parse_requirement("ratio_to_baseline.attacks.pgd8.abs_gain_auc <= 9"), outcome(BASE)).values()
    assert "not defined" in failure


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
        unmet(parse_requirement(text), BOTH)


def test_path_can_be_refused_before_anything_is_evaluated() -> None:
    settings = EvaluationSettings(attacks=("pgd1", "stadv"), epsilons=(4 / 255,), ranking="none").report()
    require_path(parse_requirement("ratio_to_baseline.timing.seconds_per_image <= 2"), settings, [])
    with pytest.raises(UsageError, match=r"did you mean 'attacks\.pgd1"):
        require_path(parse_requirement("attacks.pgd8.srocc.4 >= 0"), settings, [])
    for path in ("attacks.stadv.abs_gain.1", "worst_case.abs_gain_auc", "ratio_to_baseline.worst_case.abs_gain.4"):
        require_path(parse_requirement(f"{path} <= 1"), settings, [])


def test_compared_models_leave_out_the_baseline() -> None:
    assert [model.name for model in BOTH.compared] == ["hard"]
    assert BOTH.baseline_entry == BASE
    assert outcome(BASE).baseline_entry is None


def known_parts(value: Any, stored: Any) -> Any:
    """What an earlier version wrote of a value: figures have been added since."""
    if isinstance(stored, dict):
        return {key: known_parts(value[key], part) for key, part in stored.items()}
    if isinstance(stored, list):
        return [known_parts(*pair) for pair in zip(value, stored, strict=True)]
    return value


def test_outcome_of_an_earlier_version_is_read() -> None:
    text = (Path(__file__).parent / "data" / "legacy" / "outcome.json").read_text()
    found, stored = Outcome.from_json(text), json.loads(text)
    assert known_parts(found.model_dump(mode="json"), stored) == stored
    assert [model.name for model in found.models] == ["h_aoc", "r18", "h_aoc + blur", "r18 + blur"]
    assert len(found.models[1].checks) == 8
    pgd8 = stored["models"][1]["difference_to_baseline"]["attacks"]["pgd8"]
    assert found.models[1].difference_to_baseline.attacks["pgd8"].abs_gain["4"].low == pgd8["abs_gain"]["4"]["low"]
    unmet(parse_requirement("ratio_to_baseline.worst_case.r_score_auc <= 1"), found)


def test_every_declared_figure_has_a_path_and_a_reduction() -> None:
    paths = known_paths({"pgd8": ["4"]}, ["csv:a"], ["4"])
    for figure in FIGURES:
        assert figure.name in REDUCTIONS
        assert figure.says
        assert figure.label
        where = {"clean": "", "data": "datasets.csv:a.", "attacked": "attacks.pgd8.", "ranked": ""}[figure.of]
        name = f"{figure.name}.4" if figure.of in ("attacked", "ranked") else figure.name
        assert f"{where}{name}" in paths
        assert (f"{where}{figure.area}" in paths) == figure.has_area
        assert (f"difference_to_baseline.{where}{name}.low" in paths) == ("value" in figure.compared)
        assert (f"difference_to_baseline.{where}{figure.area}.low" in paths) == ("area" in figure.compared)
        assert (f"ratio_to_baseline.{where}{name}" in paths) == (figure.of != "data")


NEW_FIGURE = """
from iqa_armor.results.figure_registry import FIGURES, Figure
FIGURES.append(Figure("median_gain", "attacked", "Median gain", "median change", -1, has_area=True, compared=("area",)))

from conftest import memory_dataset, small_network
from iqa_armor.evaluation.evaluation import evaluate
from iqa_armor.evaluation.reductions import REDUCTIONS
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.results.outcome import Outcome

def median_gain(sample):
    before, after = sample.scores
    return (after - before).median(-1).values / sample.scale.width

REDUCTIONS["median_gain"] = median_gain
models = [
    QualityModel(small_network(i), Preprocessing(size=(32, 40)), scale=ScoreScale(-1, 1), name=str(i)) for i in (0, 1)
]
settings = EvaluationSettings(attacks=("pgd1",), epsilons=(2 / 255, 4 / 255), resamples=9)
found = evaluate(models, [memory_dataset(4, 5)], settings=settings, baseline=0).outcome
assert Outcome.from_json(found.to_json()) == found
other = found.models[1]
figures = other.attacks["pgd1"]
assert list(figures.median_gain) == ["2", "4"]
assert abs(figures.median_gain_auc - sum(figures.median_gain.values()) / 2) < 1e-12
assert other.ratio_to_baseline.attacks["pgd1"].median_gain_auc is not None
limits = other.difference_to_baseline.attacks["pgd1"].median_gain_auc
assert limits.low <= limits.value <= limits.high
"""


def test_a_figure_is_one_entry_and_one_function() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEW_FIGURE], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
