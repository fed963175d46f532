"""What a defense is: a purifier of images, a smoother of scores, and the model behind it."""

import hashlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Generator, Tensor

from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.errors import ModelLoadError, UsageError
from iqa_armor.limits import Limited
from iqa_armor.models.base import QualityModel

# What an attacker of a defended model differentiates: the defense too, or the model behind it only.
Threat = Literal["adaptive", "bare"]


@runtime_checkable
class Purifier(Protocol):
    """A map of images that shall remove perturbations: a frozen dataclass, or an nn.Module where it is learned."""

    @property
    def is_differentiable(self) -> bool:
        """Whether the gradient by the images is that of what is computed."""

    @property
    def is_random(self) -> bool:
        """Whether the result depends on the generator."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return purified images, (N, 3, H, W) in [0, 1], of images likewise; the input is left as it is.

        Height and width stay, images of a batch do not influence one another, and the gradient flows where
        `is_differentiable` says so. What is drawn comes from the generator, on its device.
        """


@runtime_checkable
class PurifierFile(Protocol):
    """Settings of a purifier that is read from a file or folder: a frozen dataclass."""

    @property
    def path(self) -> str:
        """The file or folder; empty until it is named."""

    def load(self) -> Purifier:
        """Return the purifier, on the CPU, in eval mode, without gradients of its own, or raise a ModelLoadError."""


class Plain(Limited):
    """Base of purifiers that draw nothing, and whose gradient is that of what they compute, unless they say else."""

    is_differentiable: ClassVar[bool] = True
    is_random: ClassVar[bool] = False


@runtime_checkable
class Approximated(Purifier, Protocol):
    """A purifier without a useful gradient that knows a better stand-in for it than the identity."""

    def surrogate(self, images: Tensor) -> Tensor:
        """Return what an adaptive attacker differentiates instead (BPDA), near the purified images."""


@dataclass(frozen=True)
class Certificate:
    """Smoothed scores (N,) in model units, and bounds (N,) within a radius, infinite where the method abstains."""

    scores: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def abstained(self) -> Tensor:
        """Whether either bound is missing (N,)."""
        return ~(self.lower.isfinite() & self.upper.isfinite())

    @property
    def delta(self) -> Tensor:
        """Certified delta, upper − lower bound (N,), in model units; infinite where the method abstains."""
        return self.upper - self.lower


@runtime_checkable
class BoundSmoother(Protocol):
    """A smoother of one model."""

    def scores(self, images: Tensor, generator: Generator, *, samples: int | None = None) -> Tensor:
        """Return smoothed scores (N,) of images in [0, 1], differentiably, by so many copies, else its own number."""

    def certify(self, images: Tensor, generator: Generator) -> Certificate:
        """Return smoothed scores with bounds; no gradient flows."""


@runtime_checkable
class Smoother(Protocol):
    """One way of smoothing: a frozen dataclass of hyperparameters (samples, sigma, radius, confidence, …)."""

    # What bounds are worth: "global" where they hold for every change within the radius, with the stated confidence;
    # else what they are instead, such as "local, first-order".
    guarantee: ClassVar[str]

    def bind(self, model: QualityModel) -> BoundSmoother:
        """Return this smoother of a model, which is not changed."""


def accepted_purifier(found: object, name: str) -> Purifier | PurifierFile:
    if isinstance(found, Purifier | PurifierFile) and not isinstance(found, type):
        return found
    wanted = "have is_differentiable and is_random, and be called with (images, generator)"
    raise UsageError(f"{name} is no purifier: it must {wanted}")


def accepted_smoother(found: object, name: str) -> Smoother:
    if isinstance(found, Smoother) and not isinstance(found, type):
        return found
    raise UsageError(f"{name} is no smoother: it must have a guarantee in words and bind(model)")


class Defended(QualityModel, ABC):
    """A model behind a defense, itself a quality model: `forward` gives what the defense lets through.

    It shares the network of the inner model, which may be defended itself. What the defense draws at call number k
    follows from the seed and k alone, so that results can be repeated: `reseed` starts anew. The description is the
    defense in words that the command line reads; the suffix is added to the inner model's name.
    """

    is_random: bool  # whether the score of an image is another one at every call

    def __init__(self, inner: QualityModel, *, description: str, threat: Threat = "adaptive", suffix: str = "") -> None:
        rising, name = inner.higher_is_better, inner.name + suffix
        super().__init__(
            inner.network, inner.preprocessing, scale=inner.scale, higher_is_better=rising, name=name, arch=inner.arch
        )
        self.inner, self.description, self.training_scores = inner, description, inner.training_scores
        self.threat: Threat = threat
        self.is_random = isinstance(inner, Defended) and inner.is_random
        self._seed = self._calls = 0

    def reseed(self, seed: int) -> None:
        """Start what is drawn anew, for this defense and those behind it."""
        self._seed, self._calls = seed, 0
        if isinstance(self.inner, Defended):
            self.inner.reseed(seed)

    def next_generator(self, images: Tensor) -> Generator:
        self._calls += 1
        # The CPU's generator keeps the low 32 bits of a seed only, so seed and call have to be mixed in those.
        mixed = hashlib.sha256(f"{self._seed} {self._calls}".encode()).digest()
        return Generator(device=images.device).manual_seed(int.from_bytes(mixed[:7], "big"))

    @abstractmethod
    def attacked_scores(self, images: Tensor) -> Tensor:
        """Return the scores (N,) of one draw that an adaptive attacker differentiates, approximated if need be."""

    def extra_repr(self) -> str:
        return f"{self.description}, {self.threat}"


# What a user's own purifier begins with: `file.py:NAME` or `package.module:NAME`.
_OWN = r"[^+:,=]+\.py:[A-Za-z_]\w*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?!\w*=)"


def read_chain(text: str) -> dict[str, Purifier]:
    """Return purifiers by their words, joined by "+" in their order; none may stand there twice (UsageError)."""
    known = "|".join(map(re.escape, PURIFIERS.names()))
    words = re.split(rf"\+(?=(?:{known}|{_OWN})(?:[:+]|$))", text)
    if len(set(words)) < len(words):
        raise UsageError(f"the chain {text!r} names a purifier twice with the same settings; once is enough")
    return {word: read_purifier(word) for word in words}


def read_purifier(word: str) -> Purifier:
    """Return the purifier that a word of `PURIFIERS` means, loaded where it is a file; an ArmorError refuses either."""
    purifier = PURIFIERS.read(word)
    if not isinstance(purifier, PurifierFile):
        return purifier
    if not purifier.path:
        raise UsageError(f"purifier {word!r} needs a path: {word.partition(':')[0]}:path=…")
    return purifier.load()


def existing(path: str, *, owner: str, is_folder: bool = False) -> Path:
    """Return a path that is there, and is a file or a folder as wanted; a ModelLoadError refuses others."""
    found, wanted = Path(path), "folder" if is_folder else "file"
    if not (found.is_dir() if is_folder else found.is_file()):
        seen = "is a file" if found.is_file() else "is a folder" if found.is_dir() else "does not exist"
        raise ModelLoadError(f"{path} {seen}; the purifier {owner} takes a {wanted}: {owner}:path={wanted.upper()}")
    return found
