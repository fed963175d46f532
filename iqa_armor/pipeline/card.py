"""Who made a model file, of what and how: recorded in it and on the card beside it, and told as Markdown."""

import hashlib
import json
import math
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from iqa_armor import __version__
from iqa_armor.artifact.header import read_header
from iqa_armor.artifact.storage import read_metadata
from iqa_armor.data.base import Dataset
from iqa_armor.errors import ArmorError, DataError, ModelLoadError, contents, failing, reading
from iqa_armor.files import write_whole
from iqa_armor.models.base import QualityModel, state_digest
from iqa_armor.recipe import Recipe, TrainSettings
from iqa_armor.results.outcome import Outcome

RUN = re.compile(r"```json\n(\{.*?\})\n```", re.S)


def card_file(model: Path | str) -> Path:
    return Path(model).with_suffix(".card.md")


def describe_file(path: Path | str) -> dict[str, Any]:
    """Return what a model file and its card (`run`, else None) say; a ModelLoadError if it is no model file of ours."""
    path = Path(path)  # what two runs of one command differ in stands in the card
    stored, (_, tensors) = read_metadata(path), read_header(path)
    beside = card_file(path)
    with reading(beside, ModelLoadError, advice="remove it"):
        found = RUN.search(contents(beside).decode()) if beside.is_file() else None
        run = json.loads(found[1]) if found else None
    facts = {name: stored[name] for name in ("name", "arch", "preprocessing", "score_scale", "recipe", "provenance")}
    values = sum(math.prod(info.shape) for info in tensors.values())
    file = {"file": str(path), "sha256": sha256_of(path), "bytes": path.stat().st_size, "values": values}
    return {"schema": "iqa-armor/info/1", **file, **facts, "run": run}


def write_card(model: Path, *, command: Sequence[str], source: Path | str, **facts: Any) -> None:
    """Write the card of a model file beside it: what the file says, and of this run its source and further facts."""
    made = {"command": shlex.join(command), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    digest = sha256_of(source) if Path(source).is_file() else None
    run = {**made, "source": str(source), "source_sha256": digest, "licence": "unknown", **facts}
    write_whole(card_file(model), card_of({**describe_file(model), "run": run}))


def read_outcome(path: Path | str) -> Outcome:
    """Return the outcome of an evaluation that a JSON file holds, else a DataError."""
    with failing(f"cannot read {path}", (OSError, DataError), error=DataError):
        return Outcome.from_json(contents(Path(path)))


def card_of(known: Mapping[str, Any], outcome: Outcome | None = None) -> str:
    """Return what `describe_file` knows as Markdown, with the figures of an evaluation if there is one."""
    from jinja2 import Environment

    run, recipe = known["run"] or {}, known["recipe"]
    usual = (Recipe if "position" in recipe else TrainSettings)().model_dump()
    told = {"known": known, "made": known["provenance"], "run": run, "record": json.dumps(run, indent=1)}
    told["changed"] = {name: value for name, value in recipe.items() if usual.get(name) != value}
    rules = Environment(trim_blocks=True, keep_trailing_newline=True)
    template = resources.files("iqa_armor.pipeline").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return rules.from_string(template).render(told, outcome=outcome, interval=_interval)


def _interval(value: float, count: int) -> str:
    """Return the 95 % interval of a rank correlation (Bonett & Wright 2000), where images are not too few."""
    if count < 5 or abs(value) >= 1:
        return "too few images for an interval"
    half = 1.96 * math.sqrt((1 + value**2 / 2) / (count - 3))
    return "{:.3f} to {:.3f}".format(*(math.tanh(math.atanh(value) + sign * half) for sign in (-1, 1)))


def sha256_of(path: Path | str, error: type[ArmorError] = ModelLoadError, advice: str = "name another file") -> str:
    with reading(path, error, advice=advice), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(file: Path) -> dict[str, str]:
    return {"name": file.name, "sha256": sha256_of(file)}


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "torch-pruning", "safetensors", "accelerate", "numpy", "scipy")
    return {"iqa-armor": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def without_times(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as files keep it: without what differs between two runs of one command."""
    epochs = [{key: value for key, value in each.items() if key != "seconds"} for each in record.get("epochs", ())]
    data = dict(record["data"])
    name, colon, place = data["spec"].partition(":")
    data["spec"] = name + colon + (Path(place).name if Path(place).is_absolute() else place)
    return {**record, "data": data, **({"epochs": epochs} if epochs else {})}


def provenance_of(model: QualityModel, dataset: Dataset, *, seed: int, **facts: Any) -> dict[str, Any]:
    source = {"name": model.name, "arch": model.arch, "weights": state_digest(model), "files": list(model.files)}
    data = {"spec": dataset.spec, "fingerprint": dataset.fingerprint, "synthetic": dataset.is_synthetic}
    images = {split: len(images) for split, images in dataset.splits.items()}
    data |= {"files": list(map(record_of, dataset.files)), "images": images}
    return {"source": source, "data": data, "seed": seed, "versions": versions(), **facts}
