"""Train the small network that iqa-armor ships, on synthetic data alone.

    python examples/train_demo_model.py [-o FILE.safetensors] [--photographs FOLDER]

Writes the model (by default where the package keeps it) and, beside this script, `demo_model.json` with the settings
and the figures. The same processor and library versions give the same file. Photographs serve only to measure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from iqa_armor.artifact.storage import load_artifact
from iqa_armor.data.base import SPLITS, Dataset, ImageSet
from iqa_armor.data.prepared import load_prepared
from iqa_armor.data.scenes import render_scene
from iqa_armor.data.specs import open_dataset
from iqa_armor.data.synthetic import distort
from iqa_armor.metrics.correlation import plcc, srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.models.demo import DEMO_PREPROCESSING, demo_network
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.train import Trained, train
from iqa_armor.recipe import Training
from iqa_armor.training.images import predict

Pixels = NDArray[np.uint8]

HERE = Path(__file__).resolve().parent
ASSET = HERE.parent / "iqa_armor" / "assets" / "demo.safetensors"
# Small images give many scenes for the same work, and the network averages over the map: it fits any size. They are
# not resized, here or in use, because resizing hides what tells mild noise and compression from none.
DATA = ("synthetic:scenes=800,size=128x160,seed=20250",)
TEST_DATA = "synthetic:scenes=15,size=192x256,seed=20253"
SETTINGS = Training(epochs=12, learning_rate=2e-3, batch_size=32, weight_decay=5e-2, loss="plcc+mse", flip=True, seed=0)
UNSEEN_SEED = 99
SEVERITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
GRADED = ("gaussian_blur", "white_noise", "jpeg")


def severity_correlation(model: QualityModel, images: Sequence[Pixels]) -> dict[str, list[float]]:
    """Return, per distortion, the Spearman correlation of score and negated severity within each image.

    Args:
        model: Model to question.
        images: Undistorted pixels (H, W, 3); they are distorted at their own size and then prepared.
    """
    found: dict[str, list[float]] = {}
    for kind in GRADED:
        found[kind] = []
        for index, image in enumerate(images):
            graded = [distort(image, kind, severity=s, rng=np.random.default_rng(index)) for s in SEVERITIES]
            batch = torch.stack([model.prepare(torch.from_numpy(pixels).permute(2, 0, 1)) for pixels in graded])
            with torch.inference_mode():
                scores = model(batch)
            found[kind].append(float(spearmanr(scores.numpy(), [-s for s in SEVERITIES]).statistic))
    return found


def summary(correlations: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each distortion, and of everything."""
    medians = {kind: round(statistics.median(values), 4) for kind, values in correlations.items()}
    return {**medians, "all": round(statistics.median(v for values in correlations.values() for v in values), 4)}


def unseen_scenes(count: int = 20) -> list[Pixels]:
    """Return pristine synthetic scenes that training never saw."""
    return [render_scene(np.random.default_rng([UNSEEN_SEED, i]), 192, 256) for i in range(count)]


def photographs(folder: Path) -> list[Pixels]:
    """Return every image under a folder."""
    images = open_dataset(f"folder:{folder}").splits["test"]
    return [images[i].permute(1, 2, 0).numpy() for i in range(len(images))]


def tell(task: str, done: int, total: int, detail: str = "") -> None:
    """Show progress on standard error."""
    if detail or done == total:
        sys.stderr.write(f"{task}: {done} of {total} {detail}\n")


@dataclass(frozen=True)
class JoinedImages:
    """Reader of several image sets, one after the other."""

    parts: tuple[ImageSet, ...]

    def __call__(self, index: int) -> Tensor:
        """Return image `index` as uint8 (3, H, W)."""
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError("no such image")


def joined(datasets: Sequence[Dataset]) -> Dataset:
    """Return a dataset whose training split is everything in several synthetic datasets."""
    parts = tuple(dataset.splits[split] for dataset in datasets for split in SPLITS)
    names = tuple(f"{index}/{name}" for index, part in enumerate(parts) for name in part.names)
    mos = torch.cat([part.mos for part in parts if part.mos is not None])
    images = ImageSet(names, JoinedImages(parts), mos)
    return Dataset(" + ".join(dataset.spec for dataset in datasets), {"training": images}, is_synthetic=True)


def trained_model() -> Trained:
    """Generate the data and train on it; one thread, so that sums are taken in a fixed order."""
    torch.set_num_threads(1)
    torch.manual_seed(SETTINGS.seed)
    dataset = joined([open_dataset(spec, progress=tell) for spec in DATA])
    model = QualityModel(demo_network(), DEMO_PREPROCESSING, name="demo", arch="iqa_armor.models.demo:demo_network")
    return train(model, dataset, SETTINGS, options=RunOptions(device=torch.device("cpu"), progress=tell))


def measure(model: QualityModel, folder: Path | None) -> dict[str, Any]:
    """Return how well a model does on unseen scenes, and on the photographs of a folder."""
    test = load_prepared(joined([open_dataset(TEST_DATA)]).training(), model.prepare)
    scores = predict(model, test)
    correlation = {"unseen scenes": summary(severity_correlation(model, unseen_scenes()))}
    if folder is not None:
        images = photographs(folder)
        correlation[f"{len(images)} photographs"] = summary(severity_correlation(model, images))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "test": {
            "spec": TEST_DATA,
            "images": len(test),
            "srocc": float(srocc(scores, test.mos)),
            "plcc": float(plcc(scores, test.mos)),
        },
        "severity_correlation": correlation,
    }


def main() -> None:
    """Train, save, open the saved file, measure it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ASSET)
    parser.add_argument("--photographs", type=Path, help="folder of photographs to measure on")
    arguments = parser.parse_args()
    trained = trained_model()
    trained.save(arguments.output)
    record = {
        "data": trained.provenance["data"],
        "settings": SETTINGS.model_dump(),
        "preprocessing": asdict(DEMO_PREPROCESSING),
        "epochs": [asdict(epoch) for epoch in trained.fit.epochs[1:]],
        "best_epoch": trained.fit.best,
        **measure(load_artifact(arguments.output).eval(), arguments.photographs),
    }
    text = json.dumps(record, indent=2) + "\n"
    (HERE / "demo_model.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
