"""Published datasets in their layouts: TID2013, CSIQ, PIPAL, FLIVE, AGIQA-3K, and what has no scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from iqa_armor.data.base import Dataset
from iqa_armor.data.specs import open_dataset
from iqa_armor.errors import DataError

SCENES = [f"I{number:02d}" for number in range(1, 11)]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "gray").save(path)


def tid2013(folder: Path) -> None:
    """Write names that differ in case from the files, as in the release."""
    rows = []
    for number, scene in enumerate(SCENES):
        picture(folder / "reference_images" / f"{scene}.BMP")
        for level in (1, 2):
            picture(folder / "distorted_images" / f"{scene.lower()}_01_{level}.bmp")
            rows.append(f"{5 - level + number / 100:.5f} {scene}_01_{level}.bmp")
    (folder / "mos_with_names.txt").write_bytes("\r\n".join(rows).encode())


CSIQ_KINDS = {"noise": ("awgn", "AWGN"), "jpeg 2000": ("jpeg2000", "jpeg2000"), "blur": ("blur", "BLUR")}


def csiq(folder: Path) -> None:
    """Write the sheet as the workbook has it: three rows above the header, three empty columns before it."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("all_by_image")
    for row in ([], ["CSIQ"], [], [None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]):
        sheet.append(row)
    for number, scene in enumerate([1600, "boston", *SCENES[2:]]):
        picture(folder / "src_imgs" / f"{scene}.png")
        for index, (kind, (place, word)) in enumerate(CSIQ_KINDS.items(), start=1):
            picture(folder / "dst_imgs" / place / f"{scene}.{word}.1.png")
            sheet.append([None, None, None, scene, index, kind, 1, 0.1, index / 10 + number / 1000])
    book.save(folder / "csiq.DMOS.xlsx")


def pipal(folder: Path) -> None:
    for number, scene in enumerate(SCENES):
        picture(folder / "Train_Ref" / f"{scene}.bmp")
        rows = []
        for level in (0, 1):
            picture(folder / "Train_Dist" / f"{scene}_00_0{level}.bmp")
            rows.append(f"{scene}_00_0{level}.bmp,{1400 + 10 * level + number:.4f}")
        (folder / "Train_Label").mkdir(exist_ok=True)
        (folder / "Train_Label" / f"{scene}.txt").write_text("\n".join(rows) + "\n")


def flive(folder: Path) -> None:
    rows = ["name,mos,is_valid"]
    for number in range(10):
        picture(folder / "database" / "voc_emotic_ava" / f"{number}.jpg")
        rows.append(f"voc_emotic_ava/{number}.jpg,{60 + number},{number > 6}")
    (folder / "labels_image.csv").write_text("\n".join(rows))


def agiqa3k(folder: Path) -> None:
    rows = ["name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"]
    for number in range(20):
        picture(folder / f"DALLE2_{number:03d}.jpg")
        rows.append(f'DALLE2_{number:03d}.jpg,"a cat, {number // 2}",,,,{1 + number / 10},0.1,4,0.1')
    (folder / "data.csv").write_text("\n".join(rows))


Layout = Callable[[Path], None]
RELEASES: list[tuple[Layout, str, float, Callable[[str], str]]] = [
    (tid2013, "I01_01_1.bmp", 4.0, lambda name: name[:3]),
    (csiq, "awgn/1600.awgn.1.png", 0.9, lambda name: name.partition("/")[2].partition(".")[0]),
    (pipal, "I01_00_01.bmp", 1410.0, lambda name: name[:3]),
    (flive, "voc_emotic_ava/3.jpg", 63.0, lambda name: name),
    (agiqa3k, "DALLE2_005.jpg", 1.5, lambda name: str(int(name[7:10]) // 2)),
]


def scores(dataset: Dataset) -> dict[str, float]:
    sets = dataset.splits.values()
    return {n: float(s) for images in sets for n, s in zip(images.names, images.mos, strict=True)}  # type: ignore[arg-type]


@pytest.mark.parametrize(("layout", "name", "score", "scene"), RELEASES, ids=[row[0].__name__ for row in RELEASES])
def test_a_release_opens_as_it_is_unpacked(
    tmp_path: Path, layout: Layout, name: str, score: float, scene: Callable[[str], str]
) -> None:
    home = tmp_path / "release"
    home.mkdir()
    layout(home)
    dataset = open_dataset(f"{layout.__name__}:{home}")
    found = scores(dataset)
    assert found[name] == pytest.approx(score)
    split_of = {(scene(each), split) for split, images in dataset.splits.items() for each in images.names}
    assert len(split_of) == len({scene(each) for each in found})
    assert all(images[0].shape == (3, 6, 8) for images in dataset.splits.values())
    assert open_dataset(f"{layout.__name__}:{tmp_path}").fingerprint == dataset.fingerprint
    assert all(path.is_file() for path in dataset.files)
    has_originals = layout in (tid2013, csiq, pipal)
    assert all((images.references is not None) == has_originals for images in dataset.splits.values())


@pytest.mark.parametrize("layout", [row[0] for row in RELEASES], ids=[row[0].__name__ for row in RELEASES])
def test_a_release_without_its_parts_says_what_to_unpack(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(DataError, match=r"holds no .*is at https://.*(unpack|put)"):
        open_dataset(f"{layout.__name__}:{tmp_path}")
    layout(tmp_path)
    next(iter(open_dataset(f"{layout.__name__}:{tmp_path}").splits.values())).read.paths[0].unlink()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"missing images in .*\(1\)"):
        open_dataset(f"{layout.__name__}:{tmp_path}")


def test_the_split_of_flive_is_the_official_one(tmp_path: Path) -> None:
    flive(tmp_path)
    assert {s: len(images) for s, images in open_dataset(f"flive:{tmp_path}").splits.items()} == {
        "training": 7,
        "validation": 3,
    }


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("name_image,mos_image,is_valid", "a.png,{},False", ""),
        ("name_image,mos_image,is_valid", "a.png,{},False", "image=name_image,mos=mos_image"),
        ("name,prompt,mos_quality,std_quality", 'a.png,"a, b",{},1', ""),
        ("1600.AWGN.1 0.1", "a.png {}", "image=1,mos=-2"),
        ("ref_im,dist_im,dist_type,psnr", "r.png,a.png,1,{}", "image=dist_im,mos=psnr,reference=ref_im"),
    ],
)
def test_layouts_open_by_their_columns(tmp_path: Path, header: str, row: str, columns: str) -> None:
    for name in ("a.png", "b.png", "1600.AWGN.1.png"):
        picture(tmp_path / name)
    rows = [row.format(0.5), row.format(0.25).replace("a.png", "b.png")]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    found = scores(open_dataset(f"csv:{tmp_path}/labels.csv", columns=columns))
    assert abs(found["a.png"]) == 0.5
    assert len(found) == 2 + header.startswith("1600")


def test_kadis_has_no_scores_and_is_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / "dist_imgs" / "0001_01_01.bmp")
    (tmp_path / "kadis700k_ref_imgs.csv").write_text("filename,dist_type\n0001.png,1\n")
    assert not open_dataset(f"folder:{tmp_path}/dist_imgs").is_labelled
    with pytest.raises(DataError, match=r"needs the columns image, mos but has filename, dist_type.*folder:DIR"):
        open_dataset(f"csv:{tmp_path}/kadis700k_ref_imgs.csv")
