"""A user's own images with a label file beside them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from iqa_armor.data.base import Dataset
from iqa_armor.data.columns import Columns, choose_columns
from iqa_armor.data.labelled import LabelledImage, labelled_dataset
from iqa_armor.data.places import Places
from iqa_armor.data.problems import Problems
from iqa_armor.data.table import Row, read_labels
from iqa_armor.errors import expanded


def open_csv(spec: str, location: str, *, columns: str = "", image_root: Path | None = None) -> Dataset:
    """Return the dataset of a CSV file, text table or Excel sheet: columns image, mos and, if wanted, split, reference.

    Image paths are relative to `image_root`, the file's folder or the folder `images` beside it, and must lie in one of
    them. Without a split column the images are divided 70/10/20 by a hash of their names, or of the references' where
    there are such. A DataError lists every image and score that cannot be used.

    Args:
        spec: What the dataset is called.
        location: The label file.
        columns: Where columns have other names than usual, as `image=name_image,mos=-dmos`.
        image_root: A folder with images elsewhere.
    """
    file, problems = expanded(location), Problems(spec)
    table = read_labels(file)
    chosen, roots = choose_columns(table, columns), (file.parent,) if image_root is None else (image_root, file.parent)
    places = Places((*roots, *(root / "images" for root in roots)), roots)
    remarks = [f"{file}: {says}" for says in (chosen.says, _comma(table.rows, chosen, problems)) if says]
    images = [_image(row, chosen, places, problems) for row in table.rows]
    found = [image for image in images if image is not None]
    labels = f"minus the column {chosen.of['mos']}, which falls with quality" if chosen.falls else Dataset.labels
    dataset = labelled_dataset(found, problems, labels=labels, hint=places.near, files=(file,))
    return replace(dataset, remarks=tuple(remarks))


def _image(row: Row, columns: Columns, places: Places, problems: Problems) -> LabelledImage | None:
    name = columns.text(row, "image").replace("\\", "/")
    split = row.split(columns.of["split"], problems) if "split" in columns.of else None
    score = columns.score(row, problems)
    if not name:
        problems.add("rows without an image", f"line {row.line}")
        return None
    path = places.find(name)
    if path is None:
        roots = " and ".join(map(str, places.roots[:-1]))
        kind = (
            f"image paths outside the label file's folder{roots and f' and {roots}'}; --image-root DIR allows another"
        )
        problems.add(kind, name)
        return None
    return LabelledImage(places.name_of(name, path), path, score, split, scene=columns.text(row, "reference"))


def _comma(rows: Sequence[Row], columns: Columns, problems: Problems) -> str:
    """Say that decimal commas are read, noting scores in which a comma may mean something else."""
    texts = [columns.text(row, "mos") for row in rows]
    commas = [text for text in texts if "," in text]
    if not commas:
        return ""
    if all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text) for text in commas):
        problems.extend("scores whose comma may part thousands; write them without", commas)
    problems.extend("scores with a point beside others with a decimal comma", (text for text in texts if "." in text))
    return "commas in scores are read as decimal points"
