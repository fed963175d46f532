"""Gains of single attacks on a few images, for the checks of their strength."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from iqa_armor.attacks.apgd import APGD
from iqa_armor.attacks.base import Attack, ScoreFn
from iqa_armor.attacks.budgets import turned
from iqa_armor.attacks.pgd import PGD
from iqa_armor.attacks.scores import score_gradient
from iqa_armor.attacks.square import Square
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.evaluation.threats import followed_score
from iqa_armor.gradients import straight_through
from iqa_armor.models.base import QualityModel

TOLERANCE = 0.002  # of the score range: less is noise
_PASSED = frozenset(
    getattr(home, name)
    for name in ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "detach")
    for home in (torch, Tensor)
)


@dataclass
class AttackGains:
    """Attacks on a frozen model and a few images; gains are per image, in score ranges, in the attack's direction.

    Clean images (N, 3, H, W) in [0, 1] are on the model's device, `width` is that of its score range, and a random
    score is the mean of `repeats`.
    """

    model: QualityModel
    images: Tensor
    width: float
    settings: EvaluationSettings
    repeats: int = 1
    _known: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epsilon(self) -> float:
        """L-infinity budget of the checks in [0, 1]: 4/255 where it is among the budgets, else the middle one."""
        epsilons = self.settings.epsilons
        return next((e for e in epsilons if f"{e * 255:g}" == "4"), epsilons[len(epsilons) // 2])

    @cached_property
    def followed(self) -> ScoreFn:
        """What attacks follow: the model, or the way through its defense."""
        return followed_score(self.model, self.settings.eot)

    def of(self, attack: Attack, *, through: ScoreFn | None = None) -> Tensor:
        """Return the gain (N,) of an attack, turned in this direction, on a score if not on the one it follows."""
        own = turned(attack, self.settings.sign)
        generator = Generator(device=self.images.device).manual_seed(self.settings.seed)
        parts = [
            self._scored(own(through or self.followed, part, generator)) - self._scored(part)
            for part in torch.split(self.images, self.settings.batch_size)
        ]
        return self.settings.sign * torch.cat(parts).double().cpu() / self.width

    def known(self, name: str) -> Tensor:
        """Return the gain of "pgd1", "pgd8", "pgd50", "apgd" or "square", computed once."""
        if name not in self._known:
            attacks: dict[str, Attack] = {
                "pgd1": PGD(self.epsilon, steps=1),
                "pgd8": PGD(self.epsilon, steps=8),
                "pgd50": PGD(self.epsilon, steps=50),
                "apgd": APGD(self.epsilon, steps=50, restarts=2),
                "square": Square(self.epsilon, queries=300),
            }
            self._known[name] = self.of(attacks[name])
        return self._known[name]

    def white_box(self) -> Tensor:
        """Return the largest gain of each image among the gradient attacks."""
        return torch.stack([self.known(name) for name in ("pgd8", "pgd50", "apgd")]).amax(0)

    def slopes(self) -> Tensor:
        """Return the L1 norm of each image's gradient (N,), in score ranges per unit of pixel value."""
        parts = torch.split(self.images, self.settings.batch_size)
        slopes = [score_gradient(self.followed, part).abs().sum((1, 2, 3)) for part in parts]
        return torch.cat(slopes).double().cpu() / self.width

    def is_random(self) -> bool:
        """Return whether two scores of the same images differ."""
        part = self.images[: self.settings.batch_size]
        with torch.no_grad():
            return not torch.equal(self.model(part), self.model(part))

    @torch.no_grad()
    def _scored(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(images) for _ in range(self.repeats)]).mean(0)


def exceeds(stronger: Tensor, weaker: Tensor) -> bool:
    """Return whether one gain is larger than another in the mean, beyond what a few images say by chance.

    Beyond means by 0.2 % of the score range and two standard errors of the paired differences.
    """
    differences = stronger - weaker
    error = float(differences.std()) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return float(differences.mean()) > TOLERANCE + 2 * error


class PassThrough(TorchFunctionMode):
    """While it is entered, rounding, signs and detaching pass gradients on as if they were not there.

    `passed` counts such steps that were met where a gradient was wanted.

    Source: Athalye et al., ICML 2018, arXiv:1802.00420, Section 4.1 (BPDA with the identity); finding the steps by
    intercepting PyTorch's functions is (ours).
    """

    passed = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace a step without a gradient by a straight-through one, and leave everything else alone."""
        rest = kwargs or {}
        is_step = func in _PASSED and args and isinstance(args[0], Tensor) and args[0].requires_grad
        if not (is_step and torch.is_grad_enabled()):
            return func(*args, **rest)
        self.passed += 1
        return straight_through(lambda tensor: func(tensor, *args[1:], **rest))(args[0])
