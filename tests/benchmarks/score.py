"""How fast `iqa-armor score` is beside a bare loop with the same decoder and model, and what memory it takes.

    python tests/benchmarks/score.py                              # 2,000 photographs made here; about ten minutes
    python tests/benchmarks/score.py --images DIR --count 2000    # those of a folder, repeated until they are enough

Each run is a process of its own, with a ResNet-50 at 224x224 or the network that --arch names; the two take turns.
The ratio is that of images per second, the command's over the loop's, without the start of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from iqa_armor.data.images import read_image
from iqa_armor.data.scenes import render_scene
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline.image_files import find_images
from iqa_armor.pipeline.score import each_score

SIDE = 224


def make_images(folder: Path, count: int = 40) -> None:
    """Write photographs of half a megapixel, as far as generated scenes are such."""
    for number in range(count):
        scene = render_scene(np.random.default_rng([3, number]), 600, 800)
        Image.fromarray(scene).save(folder / f"{number:04}.jpg", quality=92)


def work(way: str, folder: Path, count: int, arch: str, batch_size: int | None, device: torch.device) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(arch, num_classes=1)
    model = QualityModel(network, Preprocessing(size=(SIDE, SIDE))).eval().to(device)
    found = find_images([folder])
    files = [found[number % len(found)] for number in range(count)]
    bare(model, files[:8], device)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if way == "bare":
        total = bare(model, files, device)
    else:
        total = sum(one.score for one in each_score(model, files, device=device, batch_size=batch_size))
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"rate": count / seconds, "total": total, "MiB more": (after - before) / 1024}))


def bare(model: QualityModel, files: list[Path], device: torch.device) -> float:
    total = 0.0
    with torch.inference_mode():
        for file in files:
            total += float(model(model.prepare(read_image(file)).unsqueeze(0).to(device)))
    return total


def measure(way: str, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    words = [sys.executable, __file__, "--way", way, "--images", str(folder), "--count", str(arguments.count)]
    words += ["--arch", arguments.arch, "--device", arguments.device]
    words += ["--batch-size", str(arguments.batch_size)] if arguments.batch_size else []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=["bare", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        device = torch.device(arguments.device)
        work(arguments.way, arguments.images, arguments.count, arguments.arch, arguments.batch_size, device)
        return
    with tempfile.TemporaryDirectory() as made:
        if arguments.images is None:
            make_images(Path(made))
        folder, ratios, rates, memory = arguments.images or Path(made), [], [], []
        for number in range(arguments.rounds):
            ways = ("bare", "ours") if number % 2 else ("ours", "bare")
            got = {way: measure(way, arguments, folder) for way in ways}
            assert abs(got["ours"]["total"] - got["bare"]["total"]) < 1e-3 * arguments.count, got
            ratios.append(got["ours"]["rate"] / got["bare"]["rate"])
            rates.append(got["ours"]["rate"])
            memory.append(got["ours"]["MiB more"])
            sys.stderr.write(f"round {number + 1}: {got['ours']['rate']:.1f} images/s, ratio {ratios[-1]:.3f}\n")
    sys.stdout.write(
        f"{arguments.arch} at {SIDE}x{SIDE} on {arguments.device}, {arguments.count} images: median of {len(ratios)} "
        f"ratios {statistics.median(ratios):.3f}, {statistics.median(rates):.1f} images/s, at most "
        f"{max(memory):.0f} MiB more than at the start\n"
    )


if __name__ == "__main__":
    main()
