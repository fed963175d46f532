"""How fast `iqa-armor score` is beside a bare loop with the same decoder and model, and what memory it takes.

    python tests/benchmarks/score.py                                     # photographs made here
    python tests/benchmarks/score.py --images DIR --arch mobilenet_v3_small
    python tests/benchmarks/score.py --images DIR --model model.safetensors --batch-size 8

Blocks of the images are scored by the one and by the other, in turns and in one process, so that a busy machine is busy
for both; the command's part reads, scores, tells progress and writes a CSV file. The ratio is that of the medians of
images per second, or per second of processor time, the command's over the loop's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from iqa_armor.machine import prepare_threads

prepare_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402

from iqa_armor.cli.commands.score import _Run  # noqa: E402
from iqa_armor.cli.console import progress  # noqa: E402
from iqa_armor.data.images import read_image  # noqa: E402
from iqa_armor.data.scenes import render_scene  # noqa: E402
from iqa_armor.models.base import Preprocessing, QualityModel  # noqa: E402
from iqa_armor.pipeline.load import load_model  # noqa: E402
from iqa_armor.pipeline.score import each_score, find_images  # noqa: E402
from iqa_armor.results.rows import RowFile  # noqa: E402

SIDE = 224
WARM = 8


def make_images(folder: Path, count: int = 40) -> None:
    """Write photographs of half a megapixel, as far as generated scenes are such."""
    for number in range(count):
        scene = render_scene(np.random.default_rng([3, number]), 600, 800)
        Image.fromarray(scene).save(folder / f"{number:04}.jpg", quality=92)


def bare(model: QualityModel, files: list[Path], device: torch.device) -> list[float]:
    with torch.inference_mode():
        return [float(model(model.prepare(read_image(file)).unsqueeze(0).to(device))) for file in files]


def ours(model: QualityModel, files: list[Path], device: torch.device, batch_size: int | None = None) -> list[float]:
    scores = []
    with (
        tempfile.TemporaryDirectory() as folder,
        progress() as bars,
        RowFile(Path(folder) / "scores.csv", "csv", ("image", "score")) as file,
    ):
        for row in _Run(bars, len(files), {}).rows(each_score(model, files, device=device, batch_size=batch_size)):
            file.add(row)
            scores.append(row["score"])
    return scores


def times(way: Callable[..., list[float]], *words: object) -> tuple[list[float], float, float]:
    """Return scores, seconds and seconds of the processors."""
    start, busy = time.perf_counter(), time.process_time()
    scores = way(*words)
    return scores, time.perf_counter() - start, time.process_time() - busy


def measure(files: list[Path], arguments: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    if arguments.model:
        model = load_model(arguments.model)
    else:
        network = torchvision.models.get_model(arguments.arch, num_classes=1)
        model = QualityModel(network, Preprocessing(size=(SIDE, SIDE)), name=arguments.arch)
    model.eval().to(device)
    command = partial(ours, batch_size=arguments.batch_size)
    for way in (bare, command):
        way(model, files[:WARM], device)
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {"bare": [], "ours": []}
    blocks = [files[first : first + arguments.block] for first in range(0, len(files), arguments.block)]
    for number, block in enumerate(blocks):
        for name, way in (("bare", bare), ("ours", command))[:: 1 if number % 2 else -1]:
            found[name].append(times(way, model, block, device))
        here = [found[name][-1] for name in ("bare", "ours")]
        assert np.allclose(here[0][0], here[1][0], rtol=1e-4, atol=1e-4)
        (_, bare_wall, bare_busy), (_, wall, busy) = here
        sys.stderr.write(f"block {number + 1}: {wall:.2f} s ({busy:.2f}), bare {bare_wall:.2f} s ({bare_busy:.2f})\n")
    medians = {name: [statistics.median(each[i] for each in runs) for i in (1, 2)] for name, runs in found.items()}
    (wall, busy), (our_wall, our_busy) = medians["bare"], medians["ours"]
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told = {
        "model": model.name,
        "size": model.preprocessing.size,
        "batch size": arguments.batch_size,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "images": len(files),
    }
    told |= {"ratio": round(wall / our_wall, 3), "ratio of processor time": round(busy / our_busy, 3)}
    return {**told, "images/s": round(arguments.block / our_wall, 1), "MiB more than at the start": round(more)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--model", type=Path, help="a file in place of --arch")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if arguments.images is None:
            make_images(Path(made))
        found = find_images([arguments.images or Path(made)])
        files = [found[number % len(found)] for number in range(arguments.count)]
        sys.stdout.write(json.dumps(measure(files, arguments)) + "\n")


if __name__ == "__main__":
    main()
