"""Harden one small network of every timm family with the defaults, and say what happened to each.

    python examples/gallery.py examples/gallery.md
    python examples/gallery.py out.md --only resnet --only regnet --seconds 120

Random weights and a few generated images: this asks whether surgery works and proves itself, not what it buys. Each
network has a process of its own and a limit of time; what is hardened is stored and reloaded in a fresh process in
which timm cannot be imported, and must give the same scores. Needs `pip install '.[timm]'`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RELOAD = """
import json, sys
sys.modules["timm"] = None
import torch
from iqa_armor import load_model
model, kept = load_model(sys.argv[1]), torch.load(sys.argv[2], weights_only=True)
with torch.inference_mode():
    print(json.dumps(float((model(kept["images"]) - kept["scores"]).abs().max())))
"""


def main(arguments: Sequence[str]) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="Markdown file to write")
    parser.add_argument("--only", action="append", default=[], metavar="FAMILY", help="families to try; all without")
    parser.add_argument("--seconds", type=float, default=120.0, help="limit of time per network")
    parser.add_argument("--one", metavar="NETWORK", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        sys.stdout.write(json.dumps(harden_one(given.one)) + "\n")
        return
    rows = []
    for family, name in smallest(given.only).items():
        row = {"family": family, "network": name, **in_own_process(name, given.seconds)}
        rows.append(row)
        sys.stderr.write(f"{family}: {row['outcome']} ({row['seconds']:.0f} s)\n")
        given.output.write_text(table(rows), encoding="utf-8")


def smallest(only: Sequence[str]) -> dict[str, str]:
    """Return the network of each timm family with the fewest parameters, those for tests apart."""
    import timm
    import torch

    found = {}
    for family in only or timm.list_modules():
        best: tuple[int, str] | None = None
        for name in timm.list_models(module=family):
            with torch.device("meta"):
                try:
                    network = timm.create_model(name, num_classes=1)
                except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
                    continue  # cannot be made without weights or on the meta device
            size = sum(parameter.numel() for parameter in network.parameters())
            best = min(best or (size, name), (size, name))
        if best is not None:
            found[family] = best[1]
    return found


def in_own_process(name: str, seconds: float) -> dict[str, object]:
    """Return the outcome of one network."""
    start = time.monotonic()
    command = [sys.executable, __file__, "unused", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": f"no end within {seconds:.0f} s", "seconds": seconds}
    spent = time.monotonic() - start
    if done.returncode != 0:
        return {"outcome": f"crash: {done.stderr.strip().splitlines()[-1][:200]}", "seconds": spent}
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "seconds": spent}


def harden_one(name: str) -> dict[str, object]:
    """Harden a network with the defaults but for fine-tuning, store it, and reload it without timm."""
    import timm
    import torch

    from iqa_armor import QualityModel, Recipe, harden, open_dataset
    from iqa_armor.errors import ArmorError
    from iqa_armor.models.base import Preprocessing

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=1).eval()
    for parameter in network.parameters():
        if not parameter.any():  # heads and branches that start at zero would hide what goes wrong before them
            torch.nn.init.normal_(parameter, std=0.02)
    stages = sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size != m.stride for m in network.modules())
    size = tuple(network.default_cfg["input_size"][1:])
    row: dict[str, object] = {"convolutions": stages, "outcome": "hardened"}
    try:
        dataset = open_dataset("synthetic:scenes=6,size=64x64")
        model = QualityModel(network, Preprocessing(size=size), name=name)
        result = harden(model, dataset, Recipe(epochs=0, calibration=8))
        with tempfile.TemporaryDirectory() as folder:
            path, kept = Path(folder) / "hardened.safetensors", Path(folder) / "scores.pt"
            result.save(path)
            images = torch.rand(2, 3, *size)
            with torch.inference_mode():
                torch.save({"images": images, "scores": result.model(images)}, kept)
            command = [sys.executable, "-c", RELOAD, str(path), str(kept)]
            again = subprocess.run(command, capture_output=True, text=True, check=False)
    except ArmorError as error:
        return {**row, "outcome": f"refused ({error.exit_code}): {error}"}
    pruned = result.pruned
    row |= {"share": pruned.share if pruned else 0.0, "proof": pruned.proof if pruned else 0.0}
    if again.returncode != 0 or float(again.stdout) != 0:
        return {**row, "outcome": f"reloaded otherwise: {(again.stdout + again.stderr).strip()[-200:]}"}
    return row


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return the rows in Markdown, and how many were hardened of those with convolutional stages."""
    lines = ["| family | network | outcome | removed | proof | seconds |", "|---|---|---|---|---|---|"]
    for row in rows:
        proof = "" if row.get("proof") is None else f"{row['proof']:.0e}"
        figures = (f"{row['share']:.1%}", proof) if "share" in row else ("", "")
        text = str(row["outcome"]).replace("|", "\\|")
        lines.append(
            f"| {row['family']} | {row['network']} | {text} | {figures[0]} | {figures[1]} | {row['seconds']:.0f} |"
        )
    convolutional = [row for row in rows if int(row.get("convolutions", 2)) > 1]
    done = sum(row["outcome"] == "hardened" for row in convolutional)
    lines += ["", f"{done} of {len(convolutional)} networks with convolutional stages were hardened.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
