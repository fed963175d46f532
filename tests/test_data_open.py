from __future__ import annotations

import collections
from pathlib import Path

import pytest
from PIL import Image
from tables import rows_of

from iqa_armor.data import DATASETS
from iqa_armor.data.base import hashed_splits
from iqa_armor.data.specs import KONIQ10K_VARIABLE, default_spec, open_dataset
from iqa_armor.errors import DataError


def picture(path: Path, *, color: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (color, color, color)).save(path)


def labels(folder: Path, lines: list[str], *, end: str = "\n", encoding: str = "utf-8") -> str:
    file = folder / "labels.csv"
    file.write_bytes((end.join(lines) + end).encode(encoding))
    return f"csv:{file}"


def pictures(folder: Path, names: list[str]) -> None:
    for name in names:
        picture(folder / name)


def test_csv_with_bom_crlf_and_odd_header_case_is_read(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png", "B.JPG", "sub/c.PNG"])
    lines = [" Image ,MOS,Split", "a.png,1.5,train", "B.JPG,2,Val", "sub/c.PNG,3,TESTING", ""]
    dataset = open_dataset(labels(tmp_path, lines, end="\r\n", encoding="utf-8-sig"))
    assert {split: images.names for split, images in dataset.splits.items()} == {
        "training": ("a.png",),
        "validation": ("B.JPG",),
        "test": ("sub/c.PNG",),
    }
    assert dataset.splits["training"].mos is not None
    assert dataset.splits["training"].mos.tolist() == [1.5]
    assert dataset.splits["test"][0].shape == (3, 6, 8)
    assert dataset.is_labelled
    assert not dataset.is_synthetic


def test_semicolons_and_quoted_commas_are_read(tmp_path: Path) -> None:
    pictures(tmp_path, ["a,b.png", "c.png"])
    dataset = open_dataset(labels(tmp_path, ["image;mos;split", "a,b.png;1;test", "c.png;2;test"]))
    assert dataset.splits["test"].names == ("a,b.png", "c.png")


def test_images_may_lie_in_the_subfolder_images(tmp_path: Path) -> None:
    pictures(tmp_path, ["images/a.png", "b.png"])
    dataset = open_dataset(labels(tmp_path, ["image,mos,split", "a.png,1,test", "b.png,2,test"]))
    assert len(dataset.splits["test"]) == 2
    assert "training" not in dataset.splits


def test_names_with_backslashes_are_read_as_folders(tmp_path: Path) -> None:
    pictures(tmp_path, ["sub/a.png", "b.png"])
    dataset = open_dataset(labels(tmp_path, ["image,mos,split", "sub\\a.png,1,test", "b.png,2,test"]))
    assert dataset.splits["test"].names == ("sub/a.png", "b.png")


def test_without_splits_the_division_is_exact_and_independent_of_the_order(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(50)]
    pictures(tmp_path, names)
    rows = [f"{name},{i}" for i, name in enumerate(names)]
    first = open_dataset(labels(tmp_path, ["image,mos", *rows])).splits
    second = open_dataset(labels(tmp_path, ["image,mos", *reversed(rows)])).splits
    assert {split: len(images) for split, images in first.items()} == {
        "training": 35,
        "validation": 5,
        "test": 10,
    }
    for split, images in first.items():
        assert set(images.names) == set(second[split].names)


@pytest.mark.parametrize("count", range(1, 40))
def test_hashed_splits_leave_no_split_empty_from_three_images_on(count: int) -> None:
    found = collections.Counter(hashed_splits([str(i) for i in range(count)]))
    assert found.total() == count
    assert found["training"] >= 1
    assert len(found) == 3 or count < 3


def test_all_faults_are_listed_in_one_error(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png", "b.png", "c.png", "d.png", "e.png", "Mixed.png"])
    lines = ["image,mos,split", "a.png,1,train", "a.png,2,train", "b.png,nan,train", "c.png,inf,train"]
    lines += ["d.png,good,train", "e.png,3,holdout", "gone.png,4,test", "mixed.png,5,test", ",6,test"]
    with pytest.raises(DataError) as caught:
        open_dataset(labels(tmp_path, lines))
    message = str(caught.value)
    for part in (
        "duplicate images (1):\n    a.png",
        "scores beyond 1e+12 or not finite (2):\n    line 4: nan\n    line 5: inf",
        "no numbers (1):\n    line 6: 'good'",
        "line 7: 'holdout'",
        "rows without an image (1):\n    line 10",
        "missing images (2):\n    gone.png\n    mixed.png (there is Mixed.png)",
    ):
        assert part in message
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("score", ["1e13", "-1e39", "1e308", "9" * 400])
def test_scores_whose_squares_have_no_number_are_refused(score: str, tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png", "b.png"])
    with pytest.raises(DataError, match=r"not finite \(1\):\n    line 3"):
        open_dataset(labels(tmp_path, ["image,mos", "a.png,1e12", f"b.png,{score}"]))


@pytest.mark.parametrize("line", ["", "a.png,1", "a.png 1"])
def test_more_lines_than_a_spreadsheet_has_are_refused(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iqa_armor.data.table.MOST_LINES", 50)
    head = "image mos" if " " in line else "image,mos"
    with pytest.raises(DataError, match="more than 50 lines"):
        open_dataset(labels(tmp_path, [head, *[line] * 50]))


def test_long_listings_are_cut_after_ten(tmp_path: Path) -> None:
    rows = [f"{i}.png,{i},test" for i in range(25)]
    with pytest.raises(DataError, match=r"missing images \(25\)") as caught:
        open_dataset(labels(tmp_path, ["image,mos,split", *rows]))
    assert "… and 15 more" in str(caught.value)
    assert "    9.png" in str(caught.value)
    assert "    10.png" not in str(caught.value)


def test_one_image_in_two_splits_is_refused_however_it_is_written(tmp_path: Path) -> None:
    pictures(tmp_path, ["images/a.png", "b.png"])
    lines = ["image,mos,split", "a.png,1,train", "images/a.png,2,test", "b.png,3,test"]
    with pytest.raises(DataError, match=r"images in two splits \(1\):\n    images/a.png: training and test"):
        open_dataset(labels(tmp_path, lines))


@pytest.mark.parametrize("name", ["../out.png", "sub/../../out.png", "/etc/out.png", "C:\\out.png", "..\\out.png"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "out.png")
    (tmp_path / "data").mkdir()
    picture(tmp_path / "data" / "a.png")
    with pytest.raises(DataError, match="outside the label file's folder"):
        open_dataset(labels(tmp_path / "data", ["image,mos,split", f"{name},1,test", "a.png,2,test"]))


def test_constant_scores_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png", "b.png", "c.png"])
    lines = ["image,mos,split", "a.png,5,train", "b.png,5,train", "c.png,6,test"]
    with pytest.raises(DataError, match=r"training: 2 images, all 5"):
        open_dataset(labels(tmp_path, lines))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs the columns image, mos but has no header"),
        (b"file,score\na.png,1\n", "needs the columns image, mos but has file, score"),
        (b"image,mos\n", "lists no images"),
        (b"image,mos\na,b.png,1\n", "line 2: 3 cells, the header has 2"),
        (b"image,mos,MOS\na.png,1,2\n", "'mos' twice"),
        ("image,mos\nä.png,1\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_dataset(f"csv:{tmp_path}/labels.csv")


def test_missing_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        open_dataset(f"csv:{tmp_path}/none.csv")


def test_folder_finds_images_in_any_depth_and_case(tmp_path: Path) -> None:
    pictures(tmp_path, ["b.png", "A.JPG", "deep/er/c.JPEG", ".hidden.png", ".cache/d.png"])
    (tmp_path / "notes.txt").write_text("none")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.splits["test"].names == ("A.JPG", "b.png", "deep/er/c.JPEG")
    assert set(dataset.splits) == {"test"}
    assert not dataset.is_labelled
    assert not dataset.keeps_size


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        open_dataset(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="not a folder"):
        open_dataset(f"folder:{tmp_path}/none")


def test_unknown_kind_lists_the_known_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean koniq10k\?") as caught:
        open_dataset("koniq:/data")
    assert all(kind in str(caught.value) for kind in DATASETS)
    file = tmp_path / "labels.csv"
    file.write_text("image,mos\n")
    with pytest.raises(DataError, match=r"did you mean csv:.*labels\.csv\?"):
        open_dataset(str(file))
    with pytest.raises(DataError, match="write csv:PATH"):
        open_dataset("csv")


def test_default_is_the_koniq_folder_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KONIQ10K_VARIABLE, "/data/koniq")
    assert default_spec() == "koniq10k:/data/koniq"


@pytest.mark.parametrize("value", [None, ""])
def test_without_default_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(KONIQ10K_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(KONIQ10K_VARIABLE, value)
    with pytest.raises(DataError) as caught:
        default_spec()
    words = (KONIQ10K_VARIABLE, "database.mmsp-kn.de", "koniq10k_1024x768.zip", "csv:FILE", "synthetic")
    assert all(word in str(caught.value) for word in words)


def test_fingerprint_changes_with_scores_and_not_with_place(tmp_path: Path) -> None:
    prints = []
    for folder, score in (("x", 1), ("y", 1), ("z", 3)):
        (tmp_path / folder).mkdir()
        pictures(tmp_path / folder, ["a.png", "b.png"])
        spec = labels(tmp_path / folder, ["image,mos,split", f"a.png,{score},test", "b.png,2,test"])
        prints.append(open_dataset(spec).fingerprint)
    assert prints[0] == prints[1] != prints[2]


OWN_DATA = """
import neighbour_of_data
import torch
from iqa_armor.data.base import Dataset, ImageSet

def read(index):
    return torch.full((3, 6, 8), index, dtype=torch.uint8)

def gray(spec, location, seed=5):
    images = ImageSet(tuple("abc"), read, torch.tensor([1.0, 2.0, neighbour_of_data.THIRD + seed]))
    return Dataset(spec + "@" + location, {"test": images})

READY = gray("ready", "")
NUMBER = 3

def needs_a_place(spec, location):
    return READY

def fails(spec, location=""):
    raise FileNotFoundError("nothing there")

def gives_none(spec, location=""):
    return None
"""


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    (tmp_path / "neighbour_of_data.py").write_text("THIRD = 3.0\n")
    file = tmp_path / "own_data.py"
    file.write_text(OWN_DATA)
    return file


def test_own_dataset_is_opened_by_a_function_in_a_file_or_taken_as_it_is(own_data: Path) -> None:
    spec = f"{own_data}:gray:C:\\place"
    dataset = open_dataset(spec, seed=7)
    assert dataset.spec == spec + "@C:\\place"
    assert dataset.reported()[1].mos.tolist() == [1.0, 2.0, 10.0]  # type: ignore[union-attr]
    assert open_dataset(f"{own_data}:READY").spec == "ready@"
    assert open_dataset(dataset) is dataset


def test_own_dataset_is_opened_from_a_module_in_the_working_folder(
    own_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_data.parent)
    monkeypatch.syspath_prepend(str(own_data.parent))
    assert len(open_dataset("own_data:gray:x").splits["test"]) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NUMBER", "neither a Dataset nor a function"),
        ("needs_a_place", r"needs_a_place:PATH"),
        ("fails", "FileNotFoundError: nothing there"),
        ("gives_none", "gave NoneType, not a Dataset"),
        ("absent", "has no dataset 'absent'"),
    ],
)
def test_what_gives_no_dataset_is_refused(own_data: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(f"{own_data}:{name}")


def test_every_dataset_describes_itself() -> None:
    assert [row.name for row in rows_of(DATASETS)] == list(DATASETS)
    assert all(row.says for row in rows_of(DATASETS))


@pytest.mark.parametrize("digits", ["²", "٣", "１", "1_0", "9" * 5000, "-1", "1.5"])
@pytest.mark.parametrize("pattern", ["scenes={}", "size={}x64", "size=64x{}", "seed={}", "{}"])
def test_numbers_in_other_digits_are_refused_with_a_sentence(digits: str, pattern: str) -> None:
    with pytest.raises(DataError, match="synthetic: "):
        open_dataset(f"synthetic:{pattern.format(digits)}")


@pytest.mark.parametrize("digits", ["²", "1²", "٣x", "½", "1,5,0", "1.539,4"])
def test_scores_in_other_digits_are_refused_with_a_sentence(tmp_path: Path, digits: str) -> None:
    pictures(tmp_path, ["a.png", "b.png"])
    with pytest.raises(DataError, match="no numbers"):
        open_dataset(labels(tmp_path, ["image;mos", f"a.png;{digits}", "b.png;2"]))
