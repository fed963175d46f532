"""Limits refuse what is outside and say which limit it was."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from iqa_armor.limits import Count, Limited, Positive, check_limits


@dataclass(frozen=True)
class Knob:
    turn: float = 0.5
    mode: str = "slow"


@pytest.mark.parametrize(
    ("turn", "interval", "fits"),
    [
        (0, "[0, 1]", True),
        (1, "[0, 1]", True),
        (0, "(0, 1]", False),
        (1, "[0, 1)", False),
        (-1e-9, "[0, 1]", False),
        (1e300, "[0, inf)", True),
        (math.inf, "[0, inf)", False),
        (math.inf, "[0, inf]", True),
        (math.nan, "[0, inf]", False),
        (-180, "[-180, 180]", True),
        (5, "[1, inf)", True),
    ],
)
def test_intervals_have_open_and_closed_ends(turn: float, interval: str, fits: bool) -> None:
    if fits:
        check_limits(Knob(turn), turn=interval)
    else:
        with pytest.raises(ValueError, match=r"Knob needs turn in [\[(].*[\])], got "):
            check_limits(Knob(turn), turn=interval)


def test_the_limit_that_does_not_hold_is_said() -> None:
    with pytest.raises(ValueError, match=r"^Knob needs mode out of fast, still, got 'slow'$"):
        check_limits(Knob(), turn="[0, 1]", mode=("fast", "still"))


@dataclass(frozen=True)
class Dial(Limited):
    turn: Annotated[float, "[0, 1)"] = 0.5
    hue: Literal["red", "blue"] = "red"
    steps: Count = 1
    free: int | None = None


@dataclass(frozen=True)
class FineDial(Dial):
    grain: Positive = 1.0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"turn": 1}, r"turn in \[0, 1\), got 1"),
        ({"hue": "green"}, "hue out of red, blue, got 'green'"),
        ({"steps": 0}, r"steps in \[1, inf\), got 0"),
        ({"grain": 0.0}, r"grain in \(0, inf\), got 0.0"),
    ],
)
def test_annotations_limit_a_class_and_its_children(setting: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=f"^FineDial needs {said}$"):
        FineDial(**setting)  # type: ignore[arg-type]
    assert FineDial(turn=0, hue="blue", steps=2, free=None, grain=0.1).grain == 0.1
