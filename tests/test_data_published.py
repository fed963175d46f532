from __future__ import annotations

import collections
import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from iqa_armor.data import DATASETS
from iqa_armor.data.labelled import Problems
from iqa_armor.data.specs import open_dataset
from iqa_armor.data.table import read_labels
from iqa_armor.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "gray").save(path)


def koniq(folder: Path, *, images: str, table: str = "koniq10k_distributions_sets.csv") -> None:
    folder.mkdir(exist_ok=True)
    rows = ["image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set"]
    for index, split in enumerate(["training", "training", "validation", "test"]):
        rows.append(f"{index}.jpg,0,0,0.2,0.7,0.1,105,{70 + index},0.5,{split}")
        picture(folder / images / f"{index}.jpg")
    (folder / table).write_text("\n".join(rows))


@pytest.mark.parametrize(
    "images", ["1024x768", "512x384", "koniq10k_1024x768/1024x768", "koniq10k_512x384", "images", "."]
)
def test_koniq_is_found_in_every_layout(tmp_path: Path, images: str) -> None:
    koniq(tmp_path / "koniq", images=images)
    dataset = open_dataset(f"koniq10k:{tmp_path}/koniq")
    assert {split: len(s) for split, s in dataset.splits.items()} == {
        "training": 2,
        "validation": 1,
        "test": 1,
    }
    assert dataset.splits["test"].names == ("3.jpg",)
    torch.testing.assert_close(dataset.splits["training"].mos, torch.tensor([70.0, 71.0]))
    assert dataset.splits["test"][0].shape == (3, 6, 8)


def test_koniq_prefers_the_large_release_and_lists_what_it_lacks(tmp_path: Path) -> None:
    koniq(tmp_path, images="512x384")
    picture(tmp_path / "1024x768" / "0.jpg")
    with pytest.raises(DataError, match=r"missing images in .*1024x768 \(3\)"):
        open_dataset(f"koniq10k:{tmp_path}")


def test_koniq_without_labels_or_images_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"database\.mmsp-kn\.de"):
        open_dataset(f"koniq10k:{tmp_path}")
    koniq(tmp_path, images="elsewhere")
    with pytest.raises(DataError, match=r"none of the images.*database\.mmsp-kn\.de"):
        open_dataset(f"koniq10k:{tmp_path}")


def test_koniq_without_official_split_is_divided_by_a_hash_and_says_so(tmp_path: Path) -> None:
    rows = ['"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"']
    for index in range(10):
        rows.append(f'"{index}.jpg",0,0,25,73,7,105,3.{index},0.53,{70 + index}')
        picture(tmp_path / "1024x768" / f"{index}.jpg")
    (tmp_path / "koniq10k_scores_and_distributions.csv").write_text("\n".join(rows))
    dataset = open_dataset(f"koniq10k:{tmp_path}")
    assert {split: len(s) for split, s in dataset.splits.items()} == {"training": 7, "validation": 1, "test": 2}
    assert float(dataset.splits["training"].mos.min()) >= 70  # type: ignore[union-attr]
    assert "no official split" in dataset.remarks[0]


def test_real_koniq_label_file_has_the_published_split() -> None:
    file = SHARED / "koniq10k_distributions_sets.csv"
    if not file.is_file():
        pytest.skip("the label file of KonIQ-10k is not beside this checkout")
    rows = read_labels(file).rows
    problems = Problems("koniq10k")
    found = collections.Counter(row.split("set", problems) for row in rows)
    problems.raise_if_any()
    # Hosu et al., IEEE TIP 2020: 7058 / 1000 / 2015 of 10,073.
    assert found == {"training": 7058, "validation": 1000, "test": 2015}


def test_rows_of_the_real_koniq_file_open_with_small_images(tmp_path: Path) -> None:
    file = SHARED / "koniq10k_distributions_sets.csv"
    if not file.is_file():
        pytest.skip("the label file of KonIQ-10k is not beside this checkout")
    lines = file.read_text().splitlines()[:13]
    (tmp_path / file.name).write_text("\r\n".join(lines))
    for row in csv.DictReader(lines):
        picture(tmp_path / "512x384" / row["image_name"])
    dataset = DATASETS["koniq10k"]("koniq10k:x", str(tmp_path))
    assert sum(len(images) for images in dataset.splits.values()) == 12
    assert dataset.splits["training"].names[0] == "10004473376.jpg"
    torch.testing.assert_close(dataset.splits["training"].mos[0], torch.tensor(77.3836206897))  # type: ignore[index]


def test_nips_keeps_sizes_and_has_no_scores(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "0c7a.png")
    picture(tmp_path / "images" / "6cae.png")
    (tmp_path / "images.csv").write_text("ImageId,URL\n0c7a,u\n6cae,u\n")
    dataset = open_dataset(f"nips2017:{tmp_path}")
    assert dataset.keeps_size
    assert not dataset.is_labelled
    assert dataset.reported()[1].names == ("0c7a.png", "6cae.png")


def test_nips_lists_missing_and_repeated_images(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "images.csv").write_text("ImageId\na\na\nb\n../a\n")
    with pytest.raises(DataError, match=r"(?s)empty or paths \(1\).*duplicate images \(1\).*missing images \(2\)"):
        open_dataset(f"nips2017:{tmp_path}")
    with pytest.raises(DataError, match=r"holds no images\.csv"):
        open_dataset(f"nips2017:{tmp_path}/images")


def test_real_clive_labels_open() -> None:
    if not (SHARED / "clive" / "labels.csv").is_file():
        pytest.skip("the CLIVE photographs are not beside this checkout")
    dataset = open_dataset(f"csv:{SHARED}/clive/labels.csv")
    assert {split: len(s) for split, s in dataset.splits.items()} == {"training": 813, "validation": 116}
    assert dataset.reported()[0] == "validation"
