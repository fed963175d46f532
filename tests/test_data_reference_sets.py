"""Published datasets with their exact layouts: KADID-10k, LIVE, SPAQ and LIVE In the Wild."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from iqa_armor.data.base import SPLITS, Dataset, grouped_splits
from iqa_armor.data.specs import open_dataset
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


# LIVE release 2

FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}


def cells(names: list[str], *, column: bool = False) -> np.ndarray:
    array = np.empty((len(names), 1) if column else (1, len(names)), dtype=object)
    array.ravel()[:] = names
    return array


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the release with all of its 982 names; the last of every folder's 29 references is an original."""
    folder = tmp_path_factory.mktemp("live")
    dmos, originals, references = [], [], []
    for kind, count in FOLDERS.items():
        for number in range(1, count + 1):
            originals.append(int(number > count - 29))
            dmos.append(0.0 if originals[-1] else 0.3 * number + 0.001 * len(kind))
            references.append(f"scene{number % 29}.bmp")
            picture(folder / kind / f"img{number}.bmp", number)
    for scene in range(29):
        picture(folder / "refimgs" / f"scene{scene}.bmp", scene)
    savemat(folder / "dmos.mat", {"dmos": np.array([dmos]), "orgs": np.array([originals], dtype=np.uint8)})
    savemat(folder / "refnames_all.mat", {"refnames_all": cells(references)})
    return folder


def test_live_is_flipped_and_leaves_the_originals_out(live: Path) -> None:
    dataset = open_dataset(f"live:{live}")
    found = scores(dataset)
    assert len(found) == 982 - 5 * 29
    assert found["jp2k/img1.bmp"] == pytest.approx(100 - 0.304, abs=1e-4)
    assert found["wn/img145.bmp"] == pytest.approx(100 - 43.502, abs=1e-4)
    assert "fastfading/img145.bmp" in found
    assert not {"jp2k/img199.bmp", "fastfading/img146.bmp", "fastfading/img174.bmp"} & set(found)
    assert "100 − DMOS" in dataset.labels


def test_live_is_split_by_reference(live: Path) -> None:
    splits = open_dataset(f"live:{live}").splits
    scenes = {split: {int(name[name.index("img") + 3 : -4]) % 29 for name in s.names} for split, s in splits.items()}
    require_disjoint({split: {str(scene) for scene in found} for split, found in scenes.items()})
    assert [len(scenes[split]) for split in SPLITS] == [20, 3, 6]
    images = splits["test"]
    assert images.references is not None
    assert int(images.references(5).max()) in scenes["test"]


def test_live_refuses_what_is_missing_or_of_another_release(live: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no dmos\.mat\. LIVE release 2 is at"):
        open_dataset(f"live:{tmp_path}")
    for name in ("dmos.mat", "refnames_all.mat"):
        (tmp_path / name).write_bytes((live / name).read_bytes())
    with pytest.raises(DataError, match=r"(?s)missing images in .* \(837\):\n    jp2k/img1\.bmp.*and 827 more"):
        open_dataset(f"live:{tmp_path}")
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": cells(["a.bmp"] * 3)})
    with pytest.raises(DataError, match=r"refnames_all in .* has 3 entries, not 982"):
        open_dataset(f"live:{tmp_path}")
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": np.zeros((1, 982))})
    with pytest.raises(DataError, match="no list of names in refnames_all"):
        open_dataset(f"live:{tmp_path}")
    (tmp_path / "refnames_all.mat").unlink()
    with pytest.raises(DataError, match=r"refnames_all\.mat cannot be read"):
        open_dataset(f"live:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(64), b"x" * 300])
def test_label_files_that_are_no_mat_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dmos.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"dmos\.mat cannot be read"):
        open_dataset(f"live:{tmp_path}")


def test_mat_files_without_the_variable_or_with_text_in_it_are_refused(tmp_path: Path) -> None:
    savemat(tmp_path / "dmos.mat", {"orgs": np.zeros((1, 982))})
    with pytest.raises(DataError, match="holds no variable dmos"):
        open_dataset(f"live:{tmp_path}")
    savemat(tmp_path / "dmos.mat", {"dmos": "text", "orgs": np.zeros((1, 982))})
    with pytest.raises(DataError, match="no numbers in dmos"):
        open_dataset(f"live:{tmp_path}")


# LIVE In the Wild


def clive(folder: Path, *, count: int = 20) -> Path:
    practice = [f"t{number}.bmp" for number in range(1, 8)]
    names = [*practice, *(f"{number}.JPG" if number % 2 else f"{number}.bmp" for number in range(3, 3 + count))]
    for name in names:
        picture(folder / "Images" / ("trainingImages" if name in practice else "") / name)
    (folder / "Data").mkdir()
    savemat(folder / "Data" / "AllImages_release.mat", {"AllImages_release": cells(names, column=True)})
    savemat(folder / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.arange(len(names))[None] * 2.5})
    return folder


def test_clive_pairs_names_with_scores_behind_the_practice_images(tmp_path: Path) -> None:
    dataset = open_dataset(f"clive:{clive(tmp_path / 'ChallengeDB_release')}")
    assert sizes(dataset) == {"training": 14, "validation": 2, "test": 4}
    found = scores(dataset)
    assert found["3.JPG"] == 7 * 2.5
    assert found["22.bmp"] == 26 * 2.5
    assert not any(name.startswith("t") for name in found)
    assert dataset.splits["test"].references is None


def test_clive_refuses_what_is_missing_or_does_not_pair_up(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"AllImages_release\.mat\. LIVE In the Wild is at"):
        open_dataset(f"clive:{tmp_path}")
    clive(tmp_path)
    (tmp_path / "Images" / "3.JPG").unlink()
    with pytest.raises(DataError, match=r"(?s)missing images in .*Images \(1\):\n    3\.JPG"):
        open_dataset(f"clive:{tmp_path}")
    savemat(tmp_path / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.full((1, 27), np.nan)})
    with pytest.raises(DataError, match=r"not finite \(20\)"):
        open_dataset(f"clive:{tmp_path}")
    savemat(tmp_path / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.ones((1, 5))})
    with pytest.raises(DataError, match="names 27 images but scores 5"):
        open_dataset(f"clive:{tmp_path}")
    (tmp_path / "Data" / "AllMOS_release.mat").unlink()
    with pytest.raises(DataError, match=r"AllMOS_release\.mat cannot be read"):
        open_dataset(f"clive:{tmp_path}")


# SPAQ

SPAQ_LABELS = "MOS and Image attribute scores"
SPAQ_HEADER = ("Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")


def spaq(folder: Path, *, extension: str, count: int = 20) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    rows = [",".join(SPAQ_HEADER)]
    for number in range(1, count + 1):
        picture(folder / "TestImage" / f"{number:05d}.jpg")
        rows.append(f"{number:05d}.jpg,{2.5 * number},1,2,3,4,5")
    (folder / "Annotations" / f"{SPAQ_LABELS}{extension}").write_text("\n".join(rows))
    return folder


def test_spaq_reads_the_csv_export(tmp_path: Path) -> None:
    dataset = open_dataset(f"spaq:{spaq(tmp_path, extension='.csv')}")
    assert sizes(dataset) == {"training": 14, "validation": 2, "test": 4}
    assert scores(dataset)["00003.jpg"] == 7.5


def test_spaq_without_openpyxl_says_how_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iqa_armor.data.table.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs openpyxl to be read; open it in a spreadsheet program, save.*\.csv'"):
        open_dataset(f"spaq:{spaq(tmp_path, extension='.xlsx')}")


def sheet(folder: Path, lines: list[tuple[object, ...]]) -> None:
    """Write an Excel file as SPAQ's."""
    book = pytest.importorskip("openpyxl").Workbook()
    for line in lines:
        book.active.append(line)
    book.save(folder / f"Annotations/{SPAQ_LABELS}.xlsx")


def test_spaq_reads_the_sheet_with_openpyxl(tmp_path: Path) -> None:
    lines = [SPAQ_HEADER, *((f"{number:05d}.jpg", 2.5 * number, 1, 2, 3, 4, 5) for number in range(1, 21))]
    folder = spaq(tmp_path / "SPAQ", extension=".xlsx")
    sheet(folder, [*lines, (None,) * 7])
    dataset = open_dataset(f"spaq:{folder}")
    assert sizes(dataset) == {"training": 14, "validation": 2, "test": 4}
    torch.testing.assert_close(sum(scores(dataset).values()), 2.5 * 210)
    sheet(folder, [("Image name", "Score")])
    with pytest.raises(DataError, match="needs the columns image name, mos but has image name, score"):
        open_dataset(f"spaq:{tmp_path}")
    sheet(folder, [SPAQ_HEADER])
    with pytest.raises(DataError, match="lists no images"):
        open_dataset(f"spaq:{tmp_path}")


def test_spaq_with_a_broken_sheet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    with pytest.raises(DataError, match=r"xlsx cannot be read"):
        open_dataset(f"spaq:{spaq(tmp_path, extension='.xlsx')}")


def test_spaq_refuses_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no Annotations/MOS and .* scores\.csv or Annotations/.*\.xlsx\. SPAQ"):
        open_dataset(f"spaq:{tmp_path}")
    spaq(tmp_path, extension=".csv")
    (tmp_path / "TestImage" / "00007.jpg").unlink()
    with pytest.raises(DataError, match=r"(?s)missing images in .*TestImage \(1\):\n    00007\.jpg"):
        open_dataset(f"spaq:{tmp_path}")
