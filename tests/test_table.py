"""The table of scores and its files."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iqa_armor.errors import ArmorError, OutputError, UsageError
from iqa_armor.results.table import NUMBERS, TEXTS, Table, check_table_file, write_table


def table() -> Table:
    clean = Table.of(2, model="m", dataset="d", image=["a,b.png", "é.png"], mos=[1.5, 2.5], score=[0.1, -1e-17])
    attacked = clean.changed(attack="pgd8", budget="4", score=[0.3, 1 / 3], linf=4 / 255, psnr=[30.0, math.nan])
    return Table.joined([clean, attacked])


def same(left: Table, right: Table) -> bool:
    return all(np.array_equal(left[n], right[n], equal_nan=n in NUMBERS) for n in (*TEXTS, *NUMBERS))


def test_rows_are_chosen_by_columns_in_their_order() -> None:
    rows = table()
    assert len(rows) == 4
    assert rows.where(attack="")["score"].tolist() == [0.1, -1e-17]
    assert rows.where(attack="pgd8", budget="4")["image"].tolist() == ["a,b.png", "é.png"]
    assert len(rows.where(attack="pgd8", budget="2")) == 0
    assert np.isnan(rows.where(attack="")["linf"]).all()
    assert rows["score"].dtype == np.float64


def test_plain_columns_come_back_to_the_last_bit() -> None:
    plain = table().as_plain()
    assert "quality" not in plain
    assert same(Table.from_plain(json.loads(json.dumps(plain, allow_nan=False))), table())
    assert same(Table.from_plain(Table.of(0).as_plain() | {"score": []}), Table.of(0))


@pytest.mark.parametrize(
    "broken",
    [{}, {"image": ["a"]}, {"image": ["a"], "score": [1.0, 2.0]}, {"image": ["a"], "score": ["x"]}, {"what": [1]}],
)
def test_other_columns_are_refused(broken: Any) -> None:
    with pytest.raises(ValueError, match=r"column|float"):
        Table.from_plain(broken)


def test_csv_and_json_lines_hold_every_row(tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl"):
        write_table(table(), tmp_path / f"scores.{suffix}")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    read = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(written[0]) == list(read[0]) == [*TEXTS, *NUMBERS]
    for row, plain, expected in zip(written, read, table().rows(), strict=True):
        assert plain == expected
        assert float(row["score"]) == expected["score"]
        assert (row["image"], row["attack"]) == (expected["image"], expected["attack"])
    assert (written[0]["linf"], read[0]["linf"]) == ("", None)


def test_parquet_has_the_same_kinds_of_columns_whatever_was_measured(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    named = table().changed(image=["a.png", "b\udcff.png", "é.png", "d.png"])
    for rows, name in ((named, "all"), (Table.of(1), "none")):
        write_table(rows, tmp_path / f"{name}.parquet")
    read, empty = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("all", "none"))
    assert read.schema == empty.schema
    assert [str(kind) for kind in read.schema.types] == ["string"] * len(TEXTS) + ["double"] * len(NUMBERS)
    assert read["image"].to_pylist() == ["a.png", "b\ufffd.png", "é.png", "d.png"]
    assert read["score"].to_pylist() == [0.1, -1e-17, 0.3, 1 / 3]
    assert read["psnr"].to_pylist() == [None, None, 30.0, None]


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArmorError, match=r"pip install 'iqa-armor\[parquet\]'"):
        check_table_file(Path("scores.parquet"))


@pytest.mark.parametrize("name", ["scores", "scores.txt", "scores.CSV.gz"])
def test_unknown_suffix_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"known are \.csv, \.jsonl, \.parquet"):
        check_table_file(Path(name))


def test_nothing_is_written_where_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    target.mkdir()
    with pytest.raises((OutputError, UsageError)):
        write_table(table(), target)
    assert list(tmp_path.iterdir()) == [target]
