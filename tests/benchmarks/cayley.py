"""Time and memory of our Cayley convolution against the published formula written out plainly.

    python tests/benchmarks/cayley.py                 # the two smaller sizes
    python tests/benchmarks/cayley.py --all           # and 512 → 1024 channels on 32 × 32 maps (minutes, 20 GB)
    python tests/benchmarks/cayley.py --device cuda

One run is a training step of the layer: weight, forward, backward. The two take turns; medians are shown. The
peak memory of each is that of a process of its own, above what it held before the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iqa_armor.ortho.cayley import CayleyConv2d

TOLERANCE = 1e-4
BATCH = 4


@dataclass(frozen=True)
class Case:
    """One size: channels in and out of the layer and the side of its square maps."""

    inputs: int
    outputs: int
    side: int

    def __str__(self) -> str:
        return f"{self.inputs} → {self.outputs} @ {self.side}²"


SMALL = (Case(64, 128, 32), Case(256, 512, 16))
LARGE = Case(512, 1024, 32)
Run = Callable[[], list[Tensor]]


def published(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the layer's output by Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹], A = U − Uᴴ + VᴴV, at every frequency.

    Source: Trockman and Kolter, ICLR 2021, arXiv:2104.07167, Section 4; half spectrum, as in their code.
    """
    channels, size = weight.shape[1], weight.shape[-1]
    height, width = maps.shape[-2:]
    padded = torch.nn.functional.pad(weight, (0, width - size, 0, height - size))
    centered = padded.roll((-(size // 2), -(size // 2)), (2, 3))
    kernel = torch.fft.rfft2(centered).conj().flatten(2).permute(2, 0, 1)
    upper, lower = kernel[:, :channels], kernel[:, channels:]
    identity = torch.eye(channels, dtype=kernel.dtype, device=kernel.device)
    matrix = upper - upper.mH + lower.mH @ lower
    inverse = torch.linalg.inv(identity + matrix)
    transform = torch.cat([inverse @ (identity - matrix), -2 * lower @ inverse], dim=1)
    spectrum = torch.fft.rfft2(maps).flatten(2).permute(2, 1, 0)
    result = (transform @ spectrum).permute(2, 1, 0).reshape(len(maps), -1, height, width // 2 + 1)
    return torch.fft.irfft2(result, s=(height, width)) + bias.view(-1, 1, 1)


def prepare(name: str, case: Case, device: str) -> Run:
    """Return a training step of "ours" or "plain" that gives the output and the gradients."""
    torch.manual_seed(0)
    layer = CayleyConv2d(case.inputs, case.outputs).to(device)
    maps = torch.randn(BATCH, case.inputs, case.side, case.side, device=device, requires_grad=True)
    target = torch.randn(BATCH, case.outputs, case.side, case.side, device=device)

    def step() -> list[Tensor]:
        output = layer(maps) if name == "ours" else published(maps, layer.weight, layer.bias)
        gradients = torch.autograd.grad(output, (maps, layer.weight, layer.bias), target)
        if device == "cuda":
            torch.cuda.synchronize()
        return [output.detach(), *gradients]

    return step


def difference(case: Case, device: str) -> float:
    """Return the largest difference between the two outputs and gradients, relative to the largest entry."""
    pairs = zip(prepare("ours", case, device)(), prepare("plain", case, device)(), strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def medians(case: Case, device: str, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step of each, in turns, after one unmeasured round."""
    steps = {name: prepare(name, case, device) for name in ("ours", "plain")}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_bytes(name: str, case: Case, device: str) -> int:
    """Return the peak memory of one step in this process, above what it holds before."""
    step = prepare(name, case, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = high_water_bytes()
    step()
    return high_water_bytes() - before


def high_water_bytes() -> int:
    """Return the most memory this process ever held (Linux; getrusage would count the parent's too)."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peak_elsewhere(name: str, case: Case, device: str) -> int:
    """Return `peak_bytes` measured in a fresh process."""
    arguments = ["--peak", name, "--device", device, "--case", f"{case.inputs},{case.outputs},{case.side}"]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def measure(case: Case, device: str, repeats: int) -> dict[str, object]:
    """Return the row of one case.

    Raises:
        SystemExit: If the two disagree.
    """
    error = difference(case, device)
    if not error < TOLERANCE:
        raise SystemExit(f"{case}: outputs or gradients differ by {error:.1e}")
    seconds = medians(case, device, repeats)
    peaks = {name: peak_elsewhere(name, case, device) for name in seconds}
    return {
        "case": str(case),
        "difference": error,
        "seconds": seconds,
        "speedup": seconds["plain"] / seconds["ours"],
        "peak_bytes": peaks,
        "memory_ratio": peaks["ours"] / peaks["plain"],
    }


def main() -> None:
    """Measure the cases asked for and write one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="measure the largest size too")
    parser.add_argument("--case", help="measure one size: INPUTS,OUTPUTS,SIDE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--peak", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = (Case(*map(int, options.case.split(","))),) if options.case else SMALL + (LARGE,) * options.all
    if options.peak:
        sys.stdout.write(f"{peak_bytes(options.peak, cases[0], options.device)}\n")
        return
    for case in cases:
        row = measure(case, options.device, options.repeats)
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
