"""A user's own images: with a label file beside them, of which columns hold what, or a folder without scores."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.images import EXTENSIONS, FileImages
from iqa_armor.data.labelled import LabelledImage, Places, Problems, labelled_dataset
from iqa_armor.data.table import SPLIT_NAMES, Row, Table, is_number, read_labels
from iqa_armor.errors import DataError, UsageError, expanded

# The usual names, the first ones first; in lower case, with _ for spaces and hyphens.
_IMAGE = ("image", "image_name", "img_name", "dist_img", "filename", "file_name", "file", "name", "img", "name_image")
_MOS = ("mos", "mos_quality", "mean_opinion_score", "mos_image", "opinion_score", "mos_score", "mean_mos")
USUAL = {
    "image": (*_IMAGE, "image_path", "img_path", "filepath", "file_path", "path", "dist_name", "image_id"),
    "mos": (*_MOS, "quality_score"),
    "split": ("split", "set", "subset"),
    "reference": ("ref_img", "ref_name", "reference", "reference_image"),
}
EXAMPLE = "image=name_image,mos=mos_image"
MEND = "mend or remove these rows or files, or say with --image-root DIR where images lie, then run again"


@dataclass(frozen=True)
class Columns:
    """The columns of a label file by what they hold; `falls` where small scores mean good quality."""

    of: Mapping[str, str]
    falls: bool
    says: str  # which were taken; empty where they are called image, mos and split

    def text(self, row: Row, role: str) -> str:
        return row[self.of[role]] if role in self.of else ""


def choose_columns(table: Table, asked: str) -> Columns:
    """Return the columns of a label file: those asked for as in `image=name_image,mos=-dmos`, else the usual ones."""
    wanted = _read(asked)
    falls = wanted.get("mos", "").startswith("-") and wanted["mos"] not in table.header
    wanted |= {"mos": wanted["mos"][1:].strip()} if falls else {}
    if unknown := [name for name in wanted.values() if name not in table.header]:
        raise DataError(f"{table.path} has no column {unknown[0]!r}, only {', '.join(filter(None, table.header))}")
    of = {**_found(table), **wanted}
    if "image" not in of or "mos" not in of:
        raise DataError(_lacks(table, of))
    table.require(tuple(of.values()))
    is_plain = not falls and all(role == name for role, name in of.items())
    taken = ", ".join(f"{role} is {'minus ' * (falls and role == 'mos')}{name}" for role, name in of.items())
    return Columns(of, falls, "" if is_plain else f"of the columns {taken}; --columns {EXAMPLE} names others")


def _read(text: str) -> dict[str, str]:
    found = {}
    for part in filter(None, text.split(",")):
        role, _, name = (word.strip().lower() for word in part.partition("="))
        if role not in USUAL or not name:
            raise UsageError(f"--columns: {part!r} is not {', '.join(USUAL)} = a column; write --columns {EXAMPLE}")
        found[role] = name
    return found


def _found(table: Table) -> dict[str, str]:
    names = table.header
    if not table.has_names:
        numbers = [name for name in names if is_number(table.rows[0][name])]
        others = [name for name in names if name not in numbers]
        return {"image": others[0], "mos": numbers[0]} if len(others) == len(numbers) == 1 else {}
    by_usual = {name.replace(" ", "_").replace("-", "_"): name for name in reversed(names)}
    names_of = {role: [by_usual[usual] for usual in usuals if usual in by_usual] for role, usuals in USUAL.items()}
    found = {role: names[0] for role, names in names_of.items() if names}
    split = found.get("split", "split")
    if split != "split" and any(row[split].lower() not in SPLIT_NAMES for row in table.rows):
        del found["split"]  # a set of something else
    return found


def _lacks(table: Table, found: Mapping[str, str]) -> str:
    if not table.has_names:
        way_out = "add such a line, or count them from 1, as in --columns image=1,mos=2"
        return f"{table.path} begins with a line that holds a number and so no names of columns; {way_out}"
    needs, falling = f"{table.path} needs the columns image, mos but has", [n for n in table.header if "dmos" in n]
    if "mos" not in found and falling:
        way_out = f"write --columns mos=-{falling[0]} to turn it, or mos={falling[0]} where it rises"
        return f"{needs} {falling[0]!r}, a difference score, which most often falls with quality: {way_out}"
    names = [name for name in table.header if name]
    free = iter([name for name in names if name not in found.values()])
    wanted = ",".join(f"{role}={next(free, 'NAME')}" for role in ("image", "mos") if role not in found)
    way_out = f"as in --columns {wanted}, or, where there are no scores, name the images alone: folder:DIR"
    return f"{needs} {', '.join(names) or 'no header'}; say which they are, {way_out}"


def open_csv(spec: str, location: str, *, columns: str = "", image_root: Path | None = None) -> Dataset:
    """Return the dataset of a CSV file, text table or Excel sheet: columns image, mos and, if wanted, split, reference.

    Image paths are relative to `image_root`, the file's folder or the folder `images` beside it, and must lie in one of
    them. Without a split column the images are divided by a hash of their references' names, or their own.
    """
    file, problems = expanded(location), Problems(spec)
    table = read_labels(file)
    chosen, roots = choose_columns(table, columns), (file.parent,) if image_root is None else (image_root, file.parent)
    places = Places((*roots, *(root / "images" for root in roots)), roots)
    remarks = [f"{file}: {says}" for says in (chosen.says, _comma(table.rows, chosen, problems)) if says]
    found = [image for row in table.rows if (image := _image(row, chosen, places, problems)) is not None]
    labels = f"minus the column {chosen.of['mos']}, which falls with quality" if chosen.falls else Dataset.labels
    dataset = labelled_dataset(found, problems, labels=labels, hint=places.near, files=(file,), advice=MEND)
    return replace(dataset, remarks=tuple(remarks))


def _image(row: Row, columns: Columns, places: Places, problems: Problems) -> LabelledImage | None:
    name = columns.text(row, "image").replace("\\", "/")
    split = row.split(columns.of["split"], problems) if "split" in columns.of else None
    score = row.score(columns.of["mos"], problems) * (-1 if columns.falls else 1)
    if not name:
        problems.add("rows without an image", f"line {row.line}")
        return None
    path = places.find(name)
    if path is None:
        roots = "".join(f" and {root}" for root in places.roots[:-1])
        problems.add(f"image paths outside the label file's folder{roots}; --image-root DIR allows another", name)
        return None
    return LabelledImage(places.name_of(name, path), path, score, split, scene=columns.text(row, "reference"))


def _comma(rows: Sequence[Row], columns: Columns, problems: Problems) -> str:
    """Say that decimal commas are read, noting scores in which a comma may mean something else."""
    texts = [columns.text(row, "mos") for row in rows]
    commas = [text for text in texts if "," in text]
    if not commas:
        return ""
    if all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text) for text in commas):
        problems.add("scores whose comma may part thousands; write them without", *commas)
    problems.add("scores with a point beside others with a decimal comma", *(text for text in texts if "." in text))
    return "commas in scores are read as decimal points"


def open_folder(spec: str, location: str) -> Dataset:
    """Return all images under a folder but hidden ones as one test split, sorted by their paths relative to it."""
    folder = expanded(location)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name a folder of images")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    found = {name: path for name, path in sorted(named.items()) if "/." not in f"/{name}"}
    if not found:
        raise DataError(f"{folder} holds no images ({' '.join(sorted(EXTENSIONS))}); name a folder that does")
    return Dataset(spec, {"test": ImageSet(tuple(found), FileImages(tuple(found.values())))})
