"""Registries read words, name what they know, and take what users add."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from tables import as_markdown, rows_of

from iqa_armor import registry as module
from iqa_armor.errors import DataError, UsageError
from iqa_armor.registry import Entry, Registry


@dataclass(frozen=True)
class Shift:
    amount: float = 0.5
    steps: int = 3
    name: str = "x"
    is_slow: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")


def accept(value: object, name: str) -> object:
    if not isinstance(value, Shift) and type(value).__name__ != "Mine":
        raise UsageError(f"{name} is no shift")
    return value


SHIFTS: Registry[object] = Registry(
    "shift",
    {
        "small": Entry(f"{__name__}:Shift", "Moves a little.", {}),
        "large": Entry(f"{__name__}:Shift", "Moves a lot.", {"amount": 2.0}),
    },
    group="iqa_armor.shifts",
    accepts=accept,
    pattern=lambda name: Shift(steps=int(name[1:])) if name[1:].isdecimal() and name[0] == "s" else None,
    also="sN for N steps",
    unit=lambda value, key: 255.0 if key == "amount" else 1.0,
)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("small", Shift()),
        ("large", Shift(2.0)),
        ("s12", Shift(steps=12)),
        ("s12:name=y", Shift(steps=12, name="y")),
        ("small:amount=51,steps=7", Shift(0.2, 7)),
        ("large:is_slow=yes", Shift(2.0, is_slow=True)),
        ("small:name=a:b", Shift(name="a:b")),
    ],
)
def test_words(word: str, value: Shift) -> None:
    assert SHIFTS.read(word) == value


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("smal", "unknown shift 'smal'; did you mean small\\? known are small, large, sN for N steps"),
        ("small:size=3", "unknown shift setting 'size'; known are amount, steps, name, is_slow"),
        ("small:steps=2.5", "shift setting steps must be int, got '2.5'"),
        ("small:steps=²", "shift setting steps must be int, got '²'"),
        ("small:is_slow=maybe", "shift setting is_slow must be bool, got 'maybe'"),
        ("small:steps=-1", "shift 'small:steps=-1': steps must not be negative, got -1"),
        ("small:steps", "must be int, got ''"),
        ("no_such_module:Thing", "'no_such_module' cannot be imported"),
        ("gone.py:Thing", "there is no file .*gone.py"),
        ("", "unknown shift ''"),
    ],
)
def test_words_that_mean_nothing(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SHIFTS.read(word)


def test_it_is_a_mapping_of_values_made_once() -> None:
    assert list(SHIFTS) == ["small", "large"]
    assert SHIFTS["small"] is SHIFTS["small"]
    assert "s3" not in SHIFTS
    with pytest.raises(KeyError):
        SHIFTS["s3"]


def test_rows_show_settings_as_they_are_written() -> None:
    row = rows_of(SHIFTS)[1]
    assert (row.name, row.says) == ("large", "Moves a lot.")
    assert row.settings == {"amount": 510.0, "steps": 3, "name": "x", "is_slow": False}


def test_rows_are_a_table_for_documents() -> None:
    assert as_markdown(SHIFTS).splitlines() == [
        "| shift | what it is | settings, with their defaults |",
        "| --- | --- | --- |",
        "| `small` | Moves a little | `amount=127.5` `steps=3` `name=x` `is_slow=False` |",
        "| `large` | Moves a lot | `amount=510` `steps=3` `name=x` `is_slow=False` |",
        "",
        "Also sN for N steps.",
    ]
    settled: Registry[object] = Registry("thing", {"a": Entry(f"{__name__}:SHIFTS", "A.")})
    assert as_markdown(settled) == "| thing | what it is |\n| --- | --- |\n| `a` | A |\n"


def test_nothing_is_imported_to_name_the_values() -> None:
    broken: Registry[object] = Registry("thing", {"a": Entry("no_such_module:A", "A.")})
    assert broken.summary() == "a"
    with pytest.raises(ModuleNotFoundError):
        broken["a"]


def test_public_classes_are_found_by_name() -> None:
    assert SHIFTS.lazy_attribute("Shift").__qualname__ == "Shift"
    with pytest.raises(AttributeError, match="Unknown"):
        SHIFTS.lazy_attribute("Unknown")


OWN = """
from dataclasses import dataclass
from neighbour import START

@dataclass(frozen=True)
class Mine:
    amount: float = START

NOT = 5
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("START = 0.25\n")
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_a_users_file_may_import_its_neighbours(own_file: Path) -> None:
    assert SHIFTS.read(f"{own_file}:Mine").amount == 0.25  # type: ignore[attr-defined]
    assert SHIFTS.read(f"{own_file}:Mine:amount=51").amount == 0.2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "says"), [("NOT", "is no shift"), ("Gone", "own.py has no shift 'Gone'"), ("Mine:x=1", "unknown shift")]
)
def test_users_objects_that_are_refused(own_file: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SHIFTS.read(f"{own_file}:{name}")


@pytest.mark.parametrize("code", ["import no_such_module", "1 / 0", "def", "raise KeyError('x')", "[][1]"])
def test_a_users_file_that_fails_is_a_sentence(tmp_path: Path, code: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(UsageError, match=r"bad\.py cannot be run: \w+"):
        SHIFTS.read(f"{tmp_path / 'bad.py'}:Mine")


def test_a_package_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_shifts").mkdir()
    (tmp_path / "my_shifts" / "__init__.py").write_text("")
    (tmp_path / "my_shifts" / "deep.py").write_text("from tests_shift_base import Mine\n")
    (tmp_path / "tests_shift_base.py").write_text("class Mine: pass\nMine = Mine()\n")
    monkeypatch.chdir(tmp_path)
    assert type(SHIFTS.read("my_shifts.deep:Mine")).__name__ == "Mine"


class Point:
    def load(self) -> object:
        return Shift(9.0)


class BrokenPoint:
    def load(self) -> object:
        raise ImportError("no module named y")


def test_installed_plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"iqa_armor.shifts": {"theirs": Point(), "broken": BrokenPoint()}}
    monkeypatch.setattr(module, "_entry_points", points.__getitem__)
    assert SHIFTS.read("theirs:steps=5") == Shift(9.0, 5)
    with pytest.raises(UsageError, match="'broken' cannot be imported: no module named y"):
        SHIFTS.read("broken")
    with pytest.raises(UsageError, match="did you mean theirs"):
        SHIFTS.read("their")


def test_errors_have_the_class_of_the_registry() -> None:
    data: Registry[object] = Registry("dataset", {}, error=DataError)
    with pytest.raises(DataError, match="unknown dataset"):
        data.read("x")
