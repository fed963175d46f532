"""Harden a small convolutional network of every timm family, and metrics of pyiqa; say what happened to each.

    python examples/gallery.py examples/gallery.md
    python examples/gallery.py examples/gallery.md --pyiqa
    python examples/gallery.py out.md --only resnet --only regnet --seconds 60

Random weights and a few generated images: this asks whether surgery works and proves itself, not what it buys. Each
network has a process of its own with one thread and a limit of processor time, which other programs do not change as
they do the clock's; what is hardened is stored and reloaded in a process in which timm cannot be imported, and must
give the same scores. What of pyiqa is refused is tried again with `--allow-source`, then with `--position none`. Rows
are kept beside the table, in a file of JSON lines: a run goes on where the last one stopped, and families that `--only`
names are tried again.
Needs `pip install '.[timm]'`; pyiqa is licensed for non-commercial use only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from iqa_armor import QualityModel, Recipe, harden, open_dataset
from iqa_armor.artifact.storage import read_metadata
from iqa_armor.errors import ArmorError
from iqa_armor.models.base import Preprocessing
from iqa_armor.models.build import build
from iqa_armor.pipeline.inspect import keep_source

# A process that opens the files that it is told of, and says how far their scores are from those that were kept.
RELOAD = """
import json, sys
sys.modules["timm"] = sys.modules["pyiqa"] = None
import torch
from iqa_armor import load_model
from iqa_armor.errors import ArmorError
torch.set_num_threads(1)  # as where the scores were computed: more would round otherwise
for line in sys.stdin:
    path, kept = json.loads(line)
    kept = torch.load(kept, weights_only=True)
    try:
        with torch.inference_mode():
            print(json.dumps(float((load_model(path)(kept["images"]) - kept["scores"]).abs().max())), flush=True)
    except ArmorError as error:
        print(json.dumps(str(error)), flush=True)
"""
PAGE = """# Networks of other packages, hardened with the defaults

Written by [gallery.py](gallery.py): random weights, no fine-tuning, a process of its own with one thread for each
network, stored and reloaded in a process without the package that it came from. Seconds are processor time of building,
hardening and storing, without that of starting Python. A proof is the largest difference from the original without the
removed channels, in the spread of the scores; none stands where scores hardly differ between images or are random.
"""


def main(arguments: Sequence[str]) -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="Markdown file to write")
    parser.add_argument("--only", action="append", default=[], metavar="FAMILY", help="families to try (again)")
    parser.add_argument("--seconds", type=int, default=120, help="limit of processor time per network")
    parser.add_argument("--pyiqa", action="store_true", help="try pyiqa's no-reference metrics instead")
    given = parser.parse_args(arguments)
    package = "pyiqa" if given.pyiqa else "timm"
    kept = given.output.with_suffix(".jsonl")
    rows = {row["family"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    torch.set_num_threads(1)
    reloader()
    for family, name in (metrics if given.pyiqa else smallest)(given.only, rows):
        rows[family] = {"package": package, "family": family, "network": name, **in_own_process(name, given.seconds)}
        sys.stderr.write(f"{family}: {rows[family]['outcome']} ({rows[family]['seconds']:.0f} s)\n")
        kept.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
        given.output.write_text(page(list(rows.values())), encoding="utf-8")


def smallest(only: Collection[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the smallest convolutional network of each timm family, of those asked for or not known yet."""
    import timm

    for family in only or [each for each in timm.list_modules() if each not in known]:
        sizes = {}
        for name in timm.list_models(module=family):
            with torch.device("meta"), suppress(RuntimeError, ValueError, TypeError, AttributeError):
                network = timm.create_model(name, num_classes=1)  # some need weights, or memory
                if stages(network) > 1:
                    sizes[name] = sum(parameter.numel() for parameter in network.parameters())
        if sizes:
            yield family, min(sizes, key=lambda name: (sizes[name], name))


def metrics(only: Collection[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield a metric of each of pyiqa's architectures without reference, of those asked for or not known yet."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    found = {
        facts["metric_opts"]["type"]: f"pyiqa:{name}"
        for name, facts in reversed(DEFAULT_CONFIGS.items())
        if facts["metric_mode"] == "NR"
    }
    for name, crops in (("hyperiqa", "num_crop"), ("tres", "test_sample")):
        DEFAULT_CONFIGS[name]["metric_opts"][crops] = 1  # instead of 20 to 50 of each image
    found |= {kind: f"gallery.py:{kind.lower()}" for kind in ("ARNIQA", "CLIPIQA", "LIQE", "MANIQA")}
    yield from ((kind, name) for kind, name in found.items() if (kind in only if only else kind not in known))


def stages(network: nn.Module) -> int:
    """Return how many convolutions a network has that are no patch embedding."""
    return sum(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in network.modules())


def arniqa() -> nn.Module:
    """Return pyiqa's ARNIQA with a random encoder and regressor instead of those that it fetches."""
    from pyiqa.archs import arniqa_arch
    from torchvision.models import resnet50

    with ExitStack() as stack:
        for owner, name, value in (
            (arniqa_arch.torchvision.models, "resnet50", lambda **_: resnet50()),
            (torch.hub, "load_state_dict_from_url", lambda *_, **__: {}),
            (nn.Module, "load_state_dict", lambda *_, **__: None),
            (arniqa_arch, "load_file_from_url", lambda *_, **__: ""),
            (torch.jit, "load", lambda *_, **__: nn.Linear(4096, 1)),
        ):
            stack.enter_context(patch.object(owner, name, value))
        return arniqa_arch.ARNIQA()


def liqe() -> nn.Module:
    """Return pyiqa's LIQE around a random CLIP, ViT-B/32, instead of the one that it fetches."""
    from pyiqa.archs import clip_model, liqe_arch

    clip = clip_model.CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).float()
    with ExitStack() as stack:
        stack.enter_context(patch.object(liqe_arch, "load", lambda *_, **__: clip))
        stack.enter_context(patch.object(liqe_arch.os.path, "exists", lambda _: False))
        stack.enter_context(patch.object(torch, "save", lambda *_, **__: None))
        made = liqe_arch.LIQE(pretrained=False)
    made.text_features = made.text_features.detach()
    return made


def clipiqa() -> nn.Module:
    """Return pyiqa's CLIP-IQA around a random CLIP, ResNet-50, which is a part of the network here."""
    from pyiqa.archs import clip_model, clipiqa_arch

    clip = clip_model.CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12).float()
    with patch.object(clipiqa_arch, "load", lambda *_, **__: clip):
        made = clipiqa_arch.CLIPIQA(pretrained=False)
    clip.to = lambda *_: clip  # its forward moves it to where the images are
    made.clip_model = nn.ModuleList(made.clip_model)  # a plain list, so that no checkpoint holds it
    return made


def maniqa() -> nn.Module:
    """Return pyiqa's MANIQA around a random ViT-Ti of 196 tokens instead of a ViT-B of 784, judging one crop."""
    import timm
    from pyiqa.archs import maniqa_arch

    small = {"embed_dim": 192, "patch_size": 16, "window_size": 7, "dim_mlp": 192}
    encoder = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    with patch.object(maniqa_arch.timm, "create_model", lambda *_, **__: encoder):
        return maniqa_arch.MANIQA(**small, pretrained=False, test_sample=1)


def in_own_process(name: str, seconds: int) -> dict[str, object]:
    """Return the outcome of one network and the processor time that it took."""
    with tempfile.TemporaryDirectory() as folder:
        found, before = Path(folder) / "row.json", processor_seconds()
        child = multiprocessing.get_context("fork").Process(target=write_outcome, args=(name, found, seconds))
        child.start()
        child.join()
        ended = f"no end within {seconds} s" if child.exitcode == -signal.SIGXCPU else f"crash: exit {child.exitcode}"
        row = json.loads(found.read_text()) if found.exists() else {"outcome": ended}
        return {**row, "seconds": processor_seconds() - before}


def write_outcome(name: str, file: Path, seconds: int) -> None:
    """Write what happened to a network to a file, unless that takes more processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # at both limits it would be killed as by a crash
    torch.set_num_threads(1)  # in a forked process torch makes them anew, and fails where two ask at once
    file.write_text(json.dumps(harden_one(name)))


def processor_seconds() -> float:
    """Return the processor time of all processes that this one started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def harden_one(name: str) -> dict[str, object]:
    """Harden a network with the defaults but for fine-tuning, store it, and reload it without timm."""
    torch.manual_seed(0)
    is_metric = ":" in name
    try:
        made = build(name.replace("gallery.py", __file__) if is_metric else f"timm:{name}")
    except ArmorError as error:
        return {"outcome": f"not built: {error}"}
    plain = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    model = made.eval() if isinstance(made, QualityModel) else QualityModel(made.eval(), plain, name=name)
    model.set_preprocessing(Preprocessing(size=(224, 224) if is_metric else model.preprocessing.size))
    for parameter in model.parameters():
        if not parameter.any():  # heads and branches that start at zero would hide what goes wrong before them
            torch.nn.init.normal_(parameter, std=0.02)
    try:
        return hardened(model)
    except ArmorError as error:
        reason = f"refused ({error.exit_code}): {error}"
    for flag, position in (("--allow-source", "last"), ("--position none", "none")) if is_metric else ():
        try:
            keep_source(model, (), allow=position == "last")
            done = "hardened" if position == "last" else "only pruned"
            return {**hardened(model, position), "outcome": f"{done} with {flag}; else {reason}"}
        except ArmorError as error:
            reason = f"refused ({error.exit_code}): {error}"
    return {"outcome": reason}


def hardened(model: QualityModel, position: str = "last") -> dict[str, object]:
    """Return what happened to a model that can be hardened."""
    result = harden(
        model, open_dataset("synthetic:scenes=3,size=64x64"), Recipe(epochs=0, calibration=4, position=position)
    )
    pruned = result.pruned
    row: dict[str, object] = {"outcome": "hardened", "share": pruned.share, "proof": pruned.proof} if pruned else {}
    with tempfile.TemporaryDirectory() as folder:
        path, kept = Path(folder) / "hardened.safetensors", Path(folder) / "scores.pt"
        result.save(path)
        if read_metadata(path)["needs_source"]:
            return row
        images = torch.rand(2, 3, *(model.preprocessing.size or (224, 224)))
        with torch.inference_mode():
            torch.save({"images": images, "scores": result.model(images)}, kept)
        apart = reloaded(path, kept)
    return row if apart == 0 else {**row, "outcome": f"reloaded otherwise: {apart}"}


@cache
def reloader() -> subprocess.Popen[str]:
    """Return the process that reloads, which is started before any network has a process of its own."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", RELOAD], text=True, bufsize=1, **pipes)


def reloaded(path: Path, kept: Path) -> object:
    """Return how far scores of a stored network are from those kept, or why it cannot be opened."""
    process = reloader()
    process.stdin.write(json.dumps([str(path), str(kept)]) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def page(rows: Sequence[dict[str, object]]) -> str:
    """Return both tables."""
    parts = [PAGE]
    for package in ("timm", "pyiqa"):
        found = [row for row in rows if row["package"] == package]
        if found:
            parts.append(f"## {package} {version(package)}, torch {version('torch')}\n\n{table(found)}")
    return "\n".join(parts)


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return the rows in Markdown, and how many were hardened of those that could be built."""
    lines = ["| family | network | outcome | removed | proof | seconds |", "|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: str(row["family"])):
        proof = "" if row.get("proof") is None else f"{row['proof']:.0e}"
        share = f"{row['share']:.1%}" if "share" in row else ""
        text = str(row["outcome"]).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {row['family']} | {row['network']} | {text} | {share} | {proof} | {row['seconds']:.0f} |")
    built = [row for row in rows if not str(row["outcome"]).startswith("not built")]
    done = sum(str(row["outcome"]).startswith("hardened") for row in built)
    lines += ["", f"{done} of {len(built)} networks that could be built were hardened.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
