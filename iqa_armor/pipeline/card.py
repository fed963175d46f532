"""Who made a model file, of what and how: recorded in it and on the card beside it, and told as Markdown."""

import hashlib
import json
import math
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
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
SYNTHETIC = "It was fitted to synthetic images with computed scores, not to human opinion."
LIMITS = (
    "Figures hold for the data named here; attacks stronger than those that were run will do more.",
    "Scores mean something for images like those of the training data only.",
    "Hardening is a claim until `iqa-armor evaluate` has attacked this file; `iqa-armor certify` certifies.",
)


def card_file(model: Path | str) -> Path:
    """Return where the card of a model file stands: beside it."""
    return Path(model).with_suffix(".card.md")


def describe_file(path: Path | str) -> dict[str, Any]:
    """Return what a model file and the card beside it say, as plain values; `run` is None without a card.

    What two runs of one command differ in (date, machine, places) stands in the card, so that the file is the same.
    Raises ModelLoadError if it is no model file of ours.
    """
    path = Path(path)
    stored, (_, tensors) = read_metadata(path), read_header(path)
    beside = card_file(path)
    with reading(beside, ModelLoadError, advice="remove it"):
        found = RUN.search(contents(beside).decode()) if beside.is_file() else None
        run = json.loads(found[1]) if found else None
    return {
        "schema": "iqa-armor/info/1",
        "file": str(path),
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "values": sum(math.prod(info.shape) for info in tensors.values()),
        **{name: stored[name] for name in ("name", "arch", "preprocessing", "score_scale", "recipe", "provenance")},
        "run": run,
    }


def write_card(model: Path, *, command: Sequence[str], source: Path | str, **facts: Any) -> Path:
    """Write the card of a model file beside it and return its name.

    It says what the file says, and of this run what it was made of, `source`, and further plain values.
    """
    run = {
        "command": shlex.join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(source),
        "source_sha256": sha256_of(source) if Path(source).is_file() else None,
        "licence": "unknown",
        **facts,
    }
    write_whole(card_file(model), card_of({**describe_file(model), "run": run}))
    return card_file(model)


def read_outcome(path: Path | str) -> Outcome:
    """Return the outcome of an evaluation that a JSON file holds, else a DataError."""
    with failing(f"cannot read {path}", (OSError, DataError), error=DataError):
        return Outcome.from_json(contents(Path(path)))


def card_of(known: Mapping[str, Any], outcome: Outcome | None = None) -> str:
    """Return what `describe_file` knows as Markdown, with the figures of an evaluation if there is one."""
    made, run = known["provenance"], known["run"] or {}
    is_synthetic = bool((made.get("data") or {}).get("synthetic"))
    front = {"library_name": "iqa-armor", "license": run.get("licence", "unknown")}
    usual = (Recipe if "position" in known["recipe"] else TrainSettings)().model_dump()
    changed = {name: f"`{value}`" for name, value in known["recipe"].items() if usual.get(name) != value}
    parts = [
        "\n".join(["---", *(f"{key}: {value}" for key, value in front.items()), "---"]),
        f"# {known['name']}",
        _origin(known, made),
        "## Figures",
        _held_out(made) or "None were measured.",
        *([_attacked(outcome)] if outcome else []),
        "## Recipe",
        _rows(changed) if changed else "The defaults.",
        "All settings: `iqa-armor harden MODEL --recipe FILE --print-recipe` with this file.",
        "## Limits",
        "\n".join(f"- {limit}" for limit in ((SYNTHETIC,) if is_synthetic else ()) + LIMITS),
    ]
    if run:
        parts += ["## This run", f"```json\n{json.dumps(run, indent=1)}\n```"]
    return "\n\n".join(parts) + "\n"


def _origin(known: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    source, data, pruned = (made.get(name) or {} for name in ("source", "data", "pruned"))
    scale, seconds = known["score_scale"], (known["run"] or {}).get("call_seconds")
    counts = ", ".join(f"{count} {split} images" for split, count in (data.get("images") or {}).items())
    slower = f"{seconds[1] / seconds[0]:.2f} times the original's, where it was made" if seconds else "not measured"
    rows = {
        "made from": f"{source.get('name')} ({source.get('arch') or 'own network'}, weights {source.get('weights')}…)",
        "data": f"{data.get('spec')} (fingerprint {data.get('fingerprint')}), {counts}",
        "block": ", ".join(f"{b['channels']} channels behind {b['node']}" for b in made.get("blocks") or ()) or "none",
        "pruned": f"{pruned['share']:.1%} of the channels" if pruned else "nothing",
        "values": f"{known['values']:,}",
        "scores": f"{scale['low']:.4g} to {scale['high']:.4g} on training images" if scale else "range not known",
        "time of a call": slower,
        "versions": ", ".join(f"{name} {value}" for name, value in (made.get("versions") or {}).items()),
    }
    return _rows(rows) if source else "It was saved without a record of its origin."


def _held_out(made: Mapping[str, Any]) -> str:
    steps = made.get("held_out_srocc") or {}
    count = (made.get("images_used") or {}).get("held_out", 0)
    rows = {step: f"{value:.3f}{_interval(value, count)}" for step, value in steps.items()}
    title = f"SROCC on {count or 'the'} held-out training images, with 95 % intervals:\n\n"
    return title + _rows(rows) if rows else ""


def _interval(value: float, count: int) -> str:
    """Return the 95 % interval of a rank correlation (Bonett & Wright 2000), or nothing where images are too few."""
    if count < 5 or abs(value) >= 1:
        return " (too few images for an interval)"
    half = 1.96 * math.sqrt((1 + value**2 / 2) / (count - 3))
    return " ({:.3f} to {:.3f})".format(*(math.tanh(math.atanh(value) + sign * half) for sign in (-1, 1)))


def _attacked(outcome: Outcome) -> str:
    """Return SROCC of clean images and gains at the largest budget, with the intervals of differences."""
    rows = {}
    for model in outcome.models:
        against = model.difference_to_baseline
        rows[model.name] = "" if model.srocc is None else f"SROCC {model.srocc:.3f}"
        for name, figures in model.attacks.items():
            budget = list(figures.abs_gain)[-1]
            told = f"gain {figures.abs_gain[budget]:.3f} of the score range"
            if against and (limits := against.attacks[name].abs_gain.get(budget)) and limits.low is not None:
                told += f"; {limits.value:+.3f} ({limits.low:+.3f} to {limits.high:+.3f}) to {outcome.baseline}"
            rows[f"{model.name}, {name} at {budget}"] = told
    return f"Under attack, on {', '.join(entry.spec for entry in outcome.data)}:\n\n{_rows(rows)}"


def _rows(values: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in values.items())])


def sha256_of(path: Path | str, error: type[ArmorError] = ModelLoadError, advice: str = "name another file") -> str:
    with reading(path, error, advice=advice), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of iqa-armor, Python and the libraries that numbers depend on."""
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
    """Return the record stored with a model made from `model` on `dataset`."""
    return {
        "source": {"name": model.name, "arch": model.arch, "weights": state_digest(model), "files": list(model.files)},
        "data": {
            "spec": dataset.spec,
            "fingerprint": dataset.fingerprint,
            "synthetic": dataset.is_synthetic,
            "files": [{"name": path.name, "sha256": sha256_of(path)} for path in dataset.files],
            "images": {split: len(images) for split, images in dataset.splits.items()},
        },
        "seed": seed,
        "versions": versions(),
        **facts,
    }
