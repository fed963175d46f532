"""Attack image files and keep the attacked images, as they score when they are read again."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, count, product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.base import Attack, Direction, Fitted, frozen
from iqa_armor.data.images import read_image
from iqa_armor.defenses.base import Defended
from iqa_armor.errors import ArmorError, ModelLoadError, UsageError, failing
from iqa_armor.evaluation.run import followed_score
from iqa_armor.files import staging
from iqa_armor.machine import choose_device
from iqa_armor.metrics import fidelity
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.score import image_set, require_readable
from iqa_armor.progress import Progress, automatic
from iqa_armor.settings import LEVELS

ATTACKERS = 2**32  # seeds from here on: an attacker must not know the draws that it is scored with
TABLE = "attacks.csv"
_SLACK = 3e-5  # of a level: float32 pixels are off by half of it, which should not cost a level


@dataclass(frozen=True)
class AttackedImage:
    """One attacked image in its file, compared with the exact prepared clean image."""

    image: Path  # of the clean image
    file: str  # of the attacked image, in the output folder
    attack: str
    epsilon: float | None  # L-infinity budget in 1/255; None where the attack's budget is another
    clean_score: float  # of the prepared clean image, before any rounding: what scoring `image` gives
    attacked_score: float  # of the 8-bit file, read again: what scoring `file` gives
    gain: float  # attacked minus clean score, in model units
    linf: float  # largest change of a pixel value, in 1/255
    l2: float  # Euclidean length of the change, pixels being in [0, 1]
    psnr: float  # decibels, at most 150
    ssim: float  # structural similarity; NaN for images below 11×11 pixels

    def as_row(self) -> dict[str, Any]:
        return asdict(self) | {"image": str(self.image)}


def build_attacks(given: Sequence[str | Attack], *, epsilon: float, direction: Direction) -> dict[str, Attack]:
    """Return attacks, some given as words that `ATTACKS.read` reads, by their names.

    `epsilon`, pixels being in [0, 1], is the budget of L-infinity attacks whose word sets none; `direction` +1 raises
    scores. An attack that is unknown or takes no such value is a UsageError.
    """
    built: dict[str, Attack] = {}
    for word in given:
        attack: Any = ATTACKS.read(word) if isinstance(word, str) else word
        changes: dict[str, Any] = {"direction": direction}
        if isinstance(word, str) and attack.norm == "linf" and not re.search("[:,]epsilon=", word):
            changes["epsilon"] = epsilon
        with failing(f"attack {word!r}", (ValueError,), error=UsageError):
            built[word if isinstance(word, str) else repr(word)] = replace(attack, **changes)
    return built


def attack_images(
    model: QualityModel,
    paths: Sequence[Path | str],
    output: Path | str,
    *,
    attacks: Mapping[str, Attack],
    seed: int = 0,
    device: torch.device | None = None,
    overwrite: bool = False,
    progress: Progress = automatic,
) -> list[AttackedImage]:
    """Attack image files as the network sees them and write 8-bit PNG files and `attacks.csv`, all or nothing.

    Attacks that are fitted are fitted on these images. Every image gets the same draws, so other results depend on no
    other image. The model is moved to the device. Returns all attacks of the first image, then of the next.

    Raises DataError if an image is missing or unreadable, UsageError if the output folder is a file, holds images to
    attack or files in the way, ModelLoadError if a score is not finite; other ArmorErrors for attacks and writing.
    """
    images, output = image_set(paths), Path(output)
    files = [Path(name) for name in images.names]
    names = name_files(files, list(attacks))
    _check_output(output, files, [*names.values(), TABLE], overwrite=overwrite)
    model.eval().to(device or choose_device())
    require_readable(images)
    with frozen(model), staging(output) as folder:
        run = _Attacker(model, seed, folder)
        ready = {word: run.fit(word, attack, files, progress) for word, attack in attacks.items()}
        done: list[AttackedImage] = []
        for count, file in enumerate(files, start=1):
            pixels = run.prepared(file)
            clean = pixels, run.score(pixels, file)
            done += [run.attack(file, word, ready[word], name=names[file, word], clean=clean) for word in ready]
            progress("attacking", count, len(files))
        # File names need not be text; their bytes are kept.
        with (folder / TABLE).open("w", encoding="utf-8", errors="surrogateescape", newline="") as table:
            writer = csv.DictWriter(table, [field.name for field in fields(AttackedImage)], lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: None if v != v else v for name, v in row.as_row().items()} for row in done)
    return done


@dataclass(frozen=True)
class _Attacker:
    model: QualityModel
    seed: int
    folder: Path

    def prepared(self, file: Path) -> Tensor:
        return self.model.prepare(read_image(file)).unsqueeze(0).to(self.model.mean.device)

    def score(self, images: Tensor, file: Path) -> float:
        self.reseed()
        with torch.no_grad():
            score = float(self.model(images))
        if not math.isfinite(score):
            raise ModelLoadError(f"{self.model.name} gives {file} a score that is not finite; check its weights")
        return score

    def reseed(self, offset: int = 0) -> None:
        if isinstance(self.model, Defended):
            self.model.reseed(self.seed + offset)

    def fit(self, word: str, attack: Attack, files: Sequence[Path], progress: Progress) -> Attack:
        if not isinstance(attack, Fitted):
            return attack
        progress(f"fitting {word}", 0, 1)
        self.reseed(ATTACKERS)
        generator = Generator().manual_seed(self.seed)
        fitted = attack.fit(followed_score(self.model), lambda: map(self.prepared, files), generator)
        progress(f"fitting {word}", 1, 1)
        return fitted

    def attack(self, file: Path, word: str, attack: Attack, *, name: str, clean: tuple[Tensor, float]) -> AttackedImage:
        pixels, clean_score = clean
        self.reseed(ATTACKERS)
        attacked = attack(followed_score(self.model), pixels, Generator().manual_seed(self.seed))
        if not bool(attacked.isfinite().all()):
            raise ArmorError(f"attack {word} gave pixels that are not finite for {file}")
        is_linf = attack.norm == "linf"
        levels = to_levels(attacked, pixels, attack.epsilon if is_linf else math.inf)[0]
        Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy()).save(self.folder / name, format="PNG")
        stored = self.prepared(self.folder / name)
        attacked_score = self.score(stored, file)
        is_large = min(pixels.shape[-2:]) >= fidelity.SSIM_WINDOW
        return AttackedImage(
            image=file,
            file=name,
            attack=word,
            epsilon=_short(attack.epsilon * LEVELS) if is_linf else None,
            clean_score=clean_score,
            attacked_score=attacked_score,
            gain=attacked_score - clean_score,
            linf=round(float(fidelity.linf(pixels, stored)) * LEVELS, 4),  # float32 blurs the rest
            l2=_short(float(fidelity.l2(pixels, stored))),
            psnr=_short(float(fidelity.psnr(pixels, stored))),
            ssim=_short(float(fidelity.ssim(pixels, stored))) if is_large else math.nan,
        )


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def to_levels(attacked: Tensor, clean: Tensor, epsilon: float) -> Tensor:
    """Return attacked images as uint8, rounded to the nearest level inside the L-infinity ball around `clean`.

    Both are (N, 3, H, W) in [0, 1], `clean` not on 8-bit levels in general; `epsilon` may be infinite. Where a ball
    holds no level, which takes a radius below half of one, it is the level nearest to the clean value.
    """
    middle = clean.double() * LEVELS
    lowest = (middle - epsilon * LEVELS - _SLACK).ceil()
    highest = (middle + epsilon * LEVELS + _SLACK).floor()
    nearest = (attacked.double() * LEVELS).round().clamp(lowest, highest)
    levels = torch.where(lowest <= highest, nearest, middle.round())
    return levels.clamp(0, LEVELS).to(torch.uint8)


def name_files(files: Sequence[Path | str], words: Sequence[str]) -> dict[tuple[Path, str], str]:
    """Return a file name for every image and attack; images of one stem are numbered."""
    names: dict[tuple[Path, str], str] = {}
    taken: set[str] = set()
    for file, word in product(map(Path, files), words):
        label = file.stem + "-" + re.sub(r"[^\w.]+", "-", word)
        tried = chain([f"{label}.png"], (f"{label}-{number}.png" for number in count(2)))
        names[file, word] = next(name for name in tried if name.casefold() not in taken)
        taken.add(names[file, word].casefold())  # some file systems fold letter case
    return names


def _check_output(output: Path, files: Sequence[Path], names: Sequence[str], *, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder")
    if inside := [file for file in files if file.resolve().is_relative_to(output.resolve())]:
        raise UsageError(f"{inside[0]} lies in the output folder; name another with -o")
    existing = [output / name for name in names if (output / name).exists()]
    if existing and not overwrite:
        found = f"{existing[0]} and {len(existing) - 1} more" if len(existing) > 1 else existing[0]
        raise UsageError(f"{found} exists already; replace it with --overwrite, or name another place with -o")
