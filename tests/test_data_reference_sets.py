"""Published datasets with their exact layouts: KADID-10k, LIVE, SPAQ and LIVE In the Wild."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from iqa_armor.data import SPLITS, Dataset, open_dataset
from iqa_armor.data.tables import grouped_splits
from iqa_armor.errors import DataError


def picture(path: Path, level: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (level % 256,) * 3).save(path)


def sizes(dataset: Dataset) -> dict[str, int]:
    return {split: len(images) for split, images in dataset.splits.items()}


def scores(dataset: Dataset) -> dict[str, float]:
    return {
        name: float(mos)
        for images in dataset.splits.values()
        for name, mos in zip(images.names, images.mos, strict=True)  # type: ignore[arg-type]
    }


def require_disjoint(groups: dict[str, set[str]]) -> None:
    assert set(groups) == set(SPLITS)
    for split in SPLITS:
        assert groups[split]
        assert not groups[split] & set.union(*(groups[other] for other in SPLITS if other != split))


def test_groups_never_span_two_splits_and_keep_their_split_when_repeated() -> None:
    groups = [f"scene{index % 20}" for index in range(200)]
    splits = grouped_splits(groups)
    found = {group: {s for g, s in zip(groups, splits, strict=True) if g == group} for group in groups}
    assert all(len(names) == 1 for names in found.values())
    assert [sum(names == {split} for names in found.values()) for split in SPLITS] == [14, 2, 4]
    assert grouped_splits(groups[::-1]) == splits[::-1]


# KADID-10k


def kadid(folder: Path, *, references: int = 10) -> Path:
    rows = ["dist_img,ref_img,dmos,var"]
    for scene in range(1, references + 1):
        picture(folder / "images" / f"I{scene:02d}.png", 100)
        for level in range(1, 6):
            name = f"I{scene:02d}_01_{level:02d}.png"
            picture(folder / "images" / name, 100 + level)
            rows.append(f"{name},I{scene:02d}.png,{5 - 0.5 * level - 0.01 * scene:.2f},0.5")
    (folder / "dmos.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_kadid_is_taken_as_it_is_and_split_by_reference(tmp_path: Path) -> None:
    dataset = open_dataset(f"kadid10k:{kadid(tmp_path / 'kadid10k')}")
    assert sizes(dataset) == {"training": 35, "validation": 5, "test": 10}
    found = scores(dataset)
    assert found["I01_01_01.png"] == pytest.approx(4.49)
    assert found["I01_01_05.png"] == pytest.approx(2.49)
    require_disjoint({split: {name[:3] for name in images.names} for split, images in dataset.splits.items()})
    assert "rises" in dataset.labels
    assert open_dataset(f"kadid10k:{tmp_path}").splits["test"].names == dataset.splits["test"].names


def test_kadid_finds_each_images_reference_also_in_a_selection(tmp_path: Path) -> None:
    images = open_dataset(f"kadid10k:{kadid(tmp_path)}").splits["training"].select([7])
    assert images.references is not None
    assert images.references(images.positions[0]).unique().tolist() == [100]
    assert images[0].unique().tolist() == [100 + int(images.names[0][7:9])]
    for file in (tmp_path / "images").glob("I??.png"):
        file.unlink()
    assert open_dataset(f"kadid10k:{tmp_path}").splits["training"].references is None


def test_kadid_refuses_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no dmos\.csv\. KADID-10k is at https"):
        open_dataset(f"kadid10k:{tmp_path}")
    with pytest.raises(DataError, match=r"is not a folder\. KADID-10k"):
        open_dataset(f"kadid10k:{tmp_path}/absent")
    kadid(tmp_path)
    (tmp_path / "images" / "I03_01_02.png").unlink()
    with pytest.raises(DataError, match=r"(?s)missing images in .*images \(1\):.*I03_01_02\.png"):
        open_dataset(f"kadid10k:{tmp_path}")
    (tmp_path / "dmos.csv").write_text("dist_img,dmos\nI01_01_01.png,4\n")
    with pytest.raises(DataError, match="needs the columns dist_img, ref_img, dmos"):
        open_dataset(f"kadid10k:{tmp_path}")


def test_kadid_refuses_names_that_leave_the_folder(tmp_path: Path) -> None:
    kadid(tmp_path)
    with (tmp_path / "dmos.csv").open("a") as file:
        file.write("../dmos.csv,I01.png,3,0.5\nI01_01_01.png,,3,0.5\n")
    with pytest.raises(DataError, match=r"(?s)empty or paths \(1\).*without a reference \(1\)"):
        open_dataset(f"kadid10k:{tmp_path}")
