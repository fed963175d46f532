"""Label files as people have them: paths, columns, separators, decimals, names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from iqa_armor.cli import app
from iqa_armor.data.base import Dataset
from iqa_armor.data.specs import open_dataset
from iqa_armor.errors import DataError, UsageError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "gray").save(path)


def written(folder: Path, text: str | bytes, *names: str) -> str:
    """Write a label file, and images beside it; return the spec."""
    for name in names:
        picture(folder / name)
    file = folder / "labels.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"csv:{file}"


def scores(dataset: Dataset) -> dict[str, float]:
    return {
        name: round(float(mos), 4)
        for images in dataset.splits.values()
        for name, mos in zip(images.names, images.mos, strict=True)  # type: ignore[arg-type]
    }


AB = {"a.png": 1.5, "b.png": 2.5}


@pytest.mark.parametrize("image", ["image", "image_name", "img_name", "dist_img", "filename", "File", "name", "IMG"])
@pytest.mark.parametrize("mos", ["mos", "MOS", "mos_quality", "Mean Opinion Score", "mos_image"])
def test_usual_names_of_columns_are_found_and_said(tmp_path: Path, image: str, mos: str) -> None:
    spec = written(tmp_path, f"id,{image},{mos},sd\n1,a.png,1.5,0\n2,b.png,2.5,0\n", "a.png", "b.png")
    dataset = open_dataset(spec)
    assert scores(dataset) == AB
    is_plain = (image, mos.lower()) == ("image", "mos")
    assert is_plain or f"image is {image.lower()}, mos is {mos.lower()}" in dataset.remarks[0]
    assert len(dataset.remarks) == int(not is_plain)


def test_columns_are_chosen_by_name_and_by_number(tmp_path: Path) -> None:
    text = "name,path,MOS_a,MOS_b,part\nx,a.png,9,1.5,train\ny,b.png,8,2.5,test\n"
    spec = written(tmp_path, text, "a.png", "b.png")
    dataset = open_dataset(spec, columns="image=path, mos=MOS_b,split=part")
    assert scores(dataset) == AB
    assert set(dataset.splits) == {"training", "test"}
    spec = written(tmp_path, "1.5 0.1 a.png\n2.5 0.1 b.png\n")
    with pytest.raises(DataError, match=r"no names of columns.*--columns image=1,mos=2"):
        open_dataset(spec)
    assert scores(open_dataset(spec, columns="image=3,mos=1")) == AB


@pytest.mark.parametrize("text", ["1.5 a.png\n2.5 b.png\n", "a.png,1.5\nb.png,2.5", "a.png\t1.5\r\nb.png\t2.5\r\n"])
def test_two_columns_without_names_tell_themselves(tmp_path: Path, text: str) -> None:
    dataset = open_dataset(written(tmp_path, text, "a.png", "b.png"))
    assert scores(dataset) == AB
    assert "mos is" in dataset.remarks[0]


@pytest.mark.parametrize("name", ["dmos", "DMOS", "dmos_std"])
def test_difference_scores_are_asked_about_and_turned(tmp_path: Path, name: str) -> None:
    spec = written(tmp_path, f"image,{name}\na.png,1.5\nb.png,2.5\n", "a.png", "b.png")
    with pytest.raises(DataError, match=rf"falls with quality: write --columns mos=-{name.lower()} to turn it"):
        open_dataset(spec)
    turned = open_dataset(spec, columns=f"mos=-{name}")
    assert scores(turned) == {"a.png": -1.5, "b.png": -2.5}
    assert "falls with quality" in turned.labels
    assert scores(open_dataset(spec, columns=f"mos={name}")) == AB


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ("image", UsageError, "'image' is not image, mos, split, reference = a column"),
        ("picture=x", UsageError, "--columns: 'picture=x'"),
        ("image=x", DataError, "no column 'x', only image, score"),
        (
            "",
            DataError,
            r"needs the columns image, mos but has image, score; say which they are, as in --columns mos=score,",
        ),
    ],
)
def test_columns_that_are_not_there_are_refused(
    tmp_path: Path, columns: str, error: type[Exception], message: str
) -> None:
    spec = written(tmp_path, "image,score\na.png,1\n", "a.png")
    with pytest.raises(error, match=message):
        open_dataset(spec, columns=columns)
    with pytest.raises(DataError, match="takes no --columns"):
        open_dataset(f"folder:{tmp_path}", columns="image=x")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", "   "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_marks_are_recognised(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = [separator.join(cells) for cells in (("image", "mos"), ("a.png", "1.5"), ("b.png", "2.5"))]
    assert scores(open_dataset(written(tmp_path, "\n".join(rows).encode(encoding), "a.png", "b.png"))) == AB


@pytest.mark.parametrize(
    "text",
    [
        "image;mos\na.png;1,5\nb.png;2,5\n",
        'image,mos\na.png,"1,5"\nb.png,"2,5"\n',
        "image\tmos\na.png\t1,5\nb.png\t2,5\n",
        "a.png;1,5\nb.png;2,5\n",
        "sep=;\nimage;mos\na.png;1,5\nb.png;2,5\n",
    ],
)
def test_decimal_commas_are_read_and_said(tmp_path: Path, text: str) -> None:
    dataset = open_dataset(written(tmp_path, text, "a.png", "b.png"))
    assert scores(dataset) == AB
    assert "commas in scores are read as decimal points" in dataset.remarks[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image;mos\na.png;1,5\nb.png;2.5\n", "with a point beside others with a decimal comma"),
        ("image;mos\na.png;1,539\nb.png;2,505\n", "comma may part thousands"),
        ("image,mos\na.png,1,5\nb.png,2,5\n", "numbers with a decimal comma"),
    ],
)
def test_commas_that_may_mean_something_else_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(written(tmp_path, text, "a.png", "b.png"))


def test_superfluous_separators_and_other_sets_do_not_matter(tmp_path: Path) -> None:
    spec = written(tmp_path, "#image,mos,set,\na.png,1.5,3,\nb.png,2.5,4\n", "a.png", "b.png")
    assert scores(open_dataset(spec)) == AB


def test_images_of_one_reference_are_in_one_split(tmp_path: Path) -> None:
    names = [f"{scene}_{level}.png" for scene in range(10) for level in range(4)]
    text = "dist_img,ref_img,mos\n" + "".join(f"{n},{n[0]}.png,{i}\n" for i, n in enumerate(names))
    splits = open_dataset(written(tmp_path, text, *names)).splits.values()
    assert sum(len({name[0] for name in images.names}) for images in splits) == 10


# Paths


def test_absolute_paths_and_detours_under_the_folder_are_taken(tmp_path: Path) -> None:
    text = f"image,mos\n{tmp_path}/data/sub/a.png,1.5\nsub/../b.png,2.5\n"
    dataset = open_dataset(written(tmp_path / "data", text, "sub/a.png", "b.png"))
    assert scores(dataset) == {"sub/a.png": 1.5, "sub/../b.png": 2.5}
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(open_dataset(f"csv:{tmp_path}/link/labels.csv").splits) == len(dataset.splits)


def test_another_root_allows_relative_absolute_and_outer_paths(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/b.png", "c.png"):
        picture(tmp_path / "photos" / name)
    text = f"image,mos\nx/a.png,1\n{tmp_path}/photos/x/b.png,2\n../photos/c.png,3\n"
    spec = written(tmp_path / "labels", text)
    with pytest.raises(DataError, match=r"(?s)outside the label file's folder; --image-root DIR allows another \(2\)"):
        open_dataset(spec)
    dataset = open_dataset(spec, image_root=tmp_path / "photos")
    assert scores(dataset) == {"x/a.png": 1, "x/b.png": 2, "c.png": 3}
    moved = tmp_path / "moved"
    (tmp_path / "photos").rename(moved)
    again = written(tmp_path / "labels", text.replace("photos", "moved"))
    assert open_dataset(again, image_root=moved).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", ["../../out.png", "/out.png", "x/../../out.png", "{}/out.png", "D:\\out.png"])
def test_paths_that_leave_every_root_are_refused(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "out.png")
    picture(tmp_path / "photos" / "a.png")
    spec = written(tmp_path / "labels", f"image,mos\n{name.format(tmp_path)},1\na.png,2\n")
    with pytest.raises(DataError, match=r"outside the label file's folder and .*photos"):
        open_dataset(spec, image_root=tmp_path / "photos")


def test_missing_images_inside_are_called_missing(tmp_path: Path) -> None:
    spec = written(tmp_path, f"image,mos\n{tmp_path}/gone.png,1\na.jpg,2\n", "a.png")
    with pytest.raises(DataError, match=r"(?s)missing images \(2\).*gone\.png.*a\.jpg \(there is a\.png\)"):
        open_dataset(spec)


def test_images_in_a_folder_beside_the_label_file_are_named_with_the_way_out(tmp_path: Path) -> None:
    spec = written(tmp_path, "filename,quality_score\na.png,1\nb.png,2\n", "pics/a.png", "pics/b.png")
    with pytest.raises(DataError, match=r"(?s)a\.png \(there is pics/a\.png\).*--image-root DIR"):
        open_dataset(spec)
    assert open_dataset(spec, image_root=tmp_path / "pics").fingerprint


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_another_unicode_form_are_found(tmp_path: Path, form: str) -> None:
    name, on_disk = (
        unicodedata.normalize(f, "Ansichten/Größe é.png") for f in ("NFC" if form == "NFD" else "NFD", form)
    )
    picture(tmp_path / unicodedata.normalize(form, "Größe") / on_disk)
    place = unicodedata.normalize("NFC" if form == "NFD" else "NFD", "Größe")
    picture(tmp_path / "b.png")
    assert open_dataset(written(tmp_path, f"image,mos\n{place}/{name},1\nb.png,2\n")).is_labelled


def test_names_without_an_extension_are_found_where_one_image_fits(tmp_path: Path) -> None:
    spec = written(tmp_path, "image,mos\na,1.5\nsub/b.c,2.5\n", "a.JPG", "sub/b.c.png")
    assert scores(open_dataset(spec)) == {"a": 1.5, "sub/b.c": 2.5}
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a \(there is a\.JPG, a\.png\)"):
        open_dataset(spec)


def test_the_command_line_takes_columns_and_root_and_says_what_it_took(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.png")
    picture(tmp_path / "photos" / "b.png")
    spec = written(tmp_path / "labels", "pic,dmos\na.png,1.5\nb.png,2.5\n")
    command = ["data", "check", spec, "--columns", "image=pic,mos=-dmos", "--image-root", str(tmp_path / "photos")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    assert "image is pic, mos is minus dmos" in done.stderr
    assert "minus the column dmos" in done.stdout
    assert CliRunner().invoke(app, ["data", "check", spec, "--columns", "x"]).exit_code == 2
