"""Small scores and images that the tests of the white-box attacks, and of Square, share."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from iqa_armor.attacks.base import Attack, Direction, ScoreFn

NAMES = ("smooth", "relu", "normed")
BOTH: tuple[Direction, ...] = (1, -1)


class MeanScore(nn.Module):
    """Features averaged to one score per image."""

    def __init__(self, *features: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((1, 2, 3))


class Counted:
    """A score function that counts evaluations per image and remembers the images asked about."""

    def __init__(self, score: ScoreFn) -> None:
        self.score = score
        self.asked: list[Tensor] = []
        self.gradients = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append(images.detach().clone())
        self.gradients += int(images.requires_grad)
        return self.score(images)


def tiny(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers: dict[str, tuple[nn.Module, ...]] = {
            "smooth": (nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 1, 3), nn.Tanh()),
            "relu": (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 4, 3)),
            "normed": (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(8, 1, 3)),
        }
        return MeanScore(*layers[name]).eval()


def draw_images(height: int = 16, width: int = 16, *, count: int = 3, seed: int = 0) -> Tensor:
    """Return noise images; the first has pixels at both ends of the range, and each has its own contrast."""
    drawn = torch.rand(count, 3, height, width, generator=Generator().manual_seed(seed))
    drawn[0, :, :4], drawn[0, :, 4:8] = 0, 1
    contrast = torch.linspace(1, 0.1, count).view(-1, 1, 1, 1)
    return 0.5 + contrast * (drawn - 0.5)


def gains(attack: Attack, score: ScoreFn, images: Tensor, *, attacked: Tensor | None = None) -> Tensor:
    """Return how far an attack moves each score the way it wants, (N,)."""
    if attacked is None:
        attacked = attack(score, images, Generator().manual_seed(1))
    with torch.no_grad():
        return attack.direction * (score(attacked) - score(images))


def lengths(attack: Attack, images: Tensor, attacked: Tensor) -> Tensor:
    """Return the size of each image's change in the attack's own norm, (N,)."""
    order = {"linf": torch.inf, "l2": 2.0}[attack.norm]
    return torch.linalg.vector_norm((attacked - images).flatten(1).double(), ord=order, dim=1)


def same_size_noise(attack: Attack, images: Tensor, attacked: Tensor) -> Tensor:
    """Return images under random signs, each image's change as large as the attack's in the attack's norm."""
    signs = torch.randint(0, 2, images.shape, generator=Generator().manual_seed(5)).mul(2).sub(1).to(images)
    scale = lengths(attack, images, attacked) / lengths(attack, images, images + signs)
    return (images + signs * scale.to(images).view(-1, 1, 1, 1)).clamp(0, 1)
