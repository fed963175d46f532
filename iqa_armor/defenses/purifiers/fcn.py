"""The FCN filter: a small convolutional network trained to undo attacks, in a file of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Generator, Tensor, nn

from iqa_armor.defenses.base import existing
from iqa_armor.defenses.purifiers.filters import on_padded
from iqa_armor.errors import ModelLoadError, reading
from iqa_armor.files import write_whole
from iqa_armor.randomness import seeded

METADATA_KEY = "iqa_armor_purifier"
KIND, FORMAT = "fcn", 1
WIDTHS = (64, 16)
REACH = 0.1  # the largest correction of a pixel value: 2.5 times the largest usual budget, 10/255


@dataclass(frozen=True)
class FCNFile:
    """A trained FCN filter, in the file `path` that `iqa-armor train-purifier` wrote."""

    path: str = ""

    def load(self) -> FCN:
        return load_fcn(existing(self.path, owner="fcn"))[0]


class FCN(nn.Module):
    """Add a correction to images that three convolutions compute: 3 → 64 → 16 → 3 channels; none where it is new.

    Source: [AP] Gushchin et al., arXiv:2404.06957: three convolutions, widths, instance normalisation, LeakyReLU,
    tanh. Kernels of 3×3, repeated borders, a normalisation and LeakyReLU (slope 0.2) after the first two
    convolutions, learned gains and offsets, and that a tenth of the tanh is added to the image are (ours):
    normalised features have lost the brightness that an image would have to be rebuilt with.
    """

    is_differentiable, is_random = True, False

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((3, *WIDTHS, 3)):
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate"))
            layers += [nn.InstanceNorm2d(outputs, affine=True), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-2], nn.Tanh())
        for parameter in self.layers[-2].parameters():  # so that a new filter changes nothing
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        # One pixel has no deviation.
        return on_padded(lambda padded: padded + REACH * self.layers(2 * padded - 1), images, least=2)


def new_fcn(seed: int) -> FCN:
    """Return an untrained filter whose weights depend on the seed only; the global generator is left as it was."""
    with seeded(seed):
        return FCN()


def save_fcn(network: FCN, path: Path | str, *, provenance: dict[str, Any]) -> None:
    """Write a filter, and JSON values on its training that are never acted on, into one safetensors file or none."""
    from safetensors.torch import save

    record = {"kind": KIND, "format": FORMAT, "provenance": provenance}
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_whole(path, save(tensors, {METADATA_KEY: json.dumps(record)}))


def load_fcn(path: Path) -> tuple[FCN, dict[str, Any]]:
    """Return the filter of a file, as `PurifierFile.load` promises it, and its provenance."""
    from safetensors import safe_open

    with reading(path, ModelLoadError, says="is damaged or no safetensors file", advice="train it again"):
        if path.stat().st_size > 2**20:  # a filter takes 50 kB
            raise ModelLoadError(f"{path} is too large for an FCN filter; train one with iqa-armor train-purifier")
        with safe_open(path, framework="pt", device="cpu") as file:
            record = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise ModelLoadError(f"{path} is no FCN filter; train one with iqa-armor train-purifier")
    if (given := record.get("format")) != FORMAT:
        advice = "a newer iqa-armor may open it"
        raise ModelLoadError(f"{path} has format {given!r} and this version reads {FORMAT}; {advice}")
    network, provenance = FCN(), record.get("provenance")
    wanted = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    if {name: (value.shape, value.dtype) for name, value in tensors.items()} != wanted:
        raise ModelLoadError(f"{path} does not have the layers of an FCN filter; train it again")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ModelLoadError(f"{path} has weights that are not finite; train it again")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), provenance if isinstance(provenance, dict) else {}
