"""How often smoothed scores leave their certified bounds under the worst change that the radius allows.

    python tests/benchmarks/smoothing_coverage.py                  # about two minutes

The subjects are functions of one projection of the image, so that the true smoothed score is a formula and the worst
change a known direction: nothing can move it further. The estimate from as many noisy copies as the bounds had is
random itself and leaves them more often: the certificate does not speak of it. The last rows attack a small
convolutional network by L2-PGD through the smoothing; their true score is that of 100,000 copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from scipy.stats import binomtest
from torch import Generator, Tensor, nn
from torch.nn import functional

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.pgd import L2PGD
from iqa_armor.defenses.defended import Smoothed
from iqa_armor.defenses.smoothing.input_smoothing import MeanSmoothing, MedianSmoothing
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale

SIZE = (3, 2, 3)
BLOCK = 100  # cases with the same function and settings
METHODS = ("ms", "rs", "dms", "drs")
Truth = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Rates:
    """Cases in which the attacked score left the bounds of the clean image.

    Args:
        method: Word of the smoother.
        cases: Images.
        alpha: What the confidence allows.
        true: Of the true smoothed score.
        empirical: Of its estimate from as many noisy copies.
        width: Mean distance of the bounds, in score ranges.
    """

    method: str
    cases: int
    alpha: float
    true: int
    empirical: int
    width: float

    @property
    def p_value(self) -> float:
        """Probability of so many violations by the true score, or more, if each case had α."""
        return float(binomtest(self.true, self.cases, self.alpha, alternative="greater").pvalue)


class Projection(nn.Module):
    """A function of one linear projection of the image."""

    def __init__(self, weight: Tensor, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N,)."""
        return self.shape(images.flatten(1) @ self.weight.flatten())


@dataclass(frozen=True)
class Blur:
    """A linear denoiser: the mean of each pixel and its neighbours, around the edges."""

    is_differentiable = True
    is_random = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return blurred images."""
        kernel = images.new_full((3, 1, 3, 3), 1 / 9)
        return functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="circular"), kernel, groups=3)


def clipped_mean(middle: Tensor, deviation: float) -> Tensor:
    """Return E[clip(m + s·Z, 0, 1)] = m(Φ(b) − Φ(a)) + s(φ(a) − φ(b)) + 1 − Φ(b), a = −m/s, b = (1 − m)/s."""
    a, b = -middle / deviation, (1 - middle) / deviation
    density = torch.distributions.Normal(0.0, 1.0).log_prob
    inside = middle * (torch.special.ndtr(b) - torch.special.ndtr(a))
    return inside + deviation * (density(a).exp() - density(b).exp()) + 1 - torch.special.ndtr(b)


def median_subject(block: int) -> tuple[Callable[[Tensor], Tensor], Truth]:
    """Return a rising function and the median of its noisy values: the function itself."""
    shape = (lambda z: z, lambda z: torch.tanh(2 * z), lambda z: z**3)[block % 3]
    return shape, lambda middle, _: shape(middle)


def mean_subject(block: int) -> tuple[Callable[[Tensor], Tensor], Truth]:
    """Return a step (for which the bounds are tight) or a line that leaves [0, 1], and the mean of noisy values."""
    if block % 2:
        return lambda z: z, clipped_mean
    return lambda z: (z > 0.5).to(z.dtype), lambda middle, deviation: torch.special.ndtr((middle - 0.5) / deviation)


def simulate(method: str, *, cases: int, samples: int, confidence: float, seed: int = 0) -> Rates:
    """Return how often scores left their bounds, over random functions, images, noise levels and radii."""
    generator = Generator().manual_seed(seed)
    true = empirical = 0
    widths: list[Tensor] = []
    for block in range(math.ceil(cases / BLOCK)):
        kind = MedianSmoothing if method.endswith("ms") else MeanSmoothing
        sigma = float(0.05 + 0.25 * torch.rand((), generator=generator))
        smoothing = kind(
            samples=samples,
            sigma=sigma,
            radius=sigma * float(torch.rand((), generator=generator)),
            confidence=confidence,
            batch_size=samples,
            denoiser=Blur() if method.startswith("d") else "",
        )
        lost, missed, width = _one_block(smoothing, block, generator)
        true, empirical = true + lost, empirical + missed
        widths.append(width)
    total = BLOCK * len(widths)
    return Rates(method, total, 1 - confidence, true, empirical, float(torch.stack(widths).mean()))


def _one_block(smoothing: MedianSmoothing | MeanSmoothing, block: int, generator: Generator) -> tuple[int, int, Tensor]:
    subject = median_subject if isinstance(smoothing, MedianSmoothing) else mean_subject
    shape, truth = subject(block)
    weight = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    weight = weight - weight.mean() + 1 / weight.numel()  # images around mid-grey score around 0.5
    plain = Preprocessing(size=None, mean=(0, 0, 0), std=(1, 1, 1))
    model = QualityModel(Projection(weight, shape).double(), plain, scale=ScoreScale(0, 1)).double()
    seen = weight
    if not isinstance(smoothing.denoiser, str):  # (D x) · w = x · (Dᵀ w)
        probe = torch.zeros(1, *SIZE, dtype=torch.float64, requires_grad=True)
        (seen,) = torch.autograd.grad((smoothing.denoiser(probe, generator) * weight).sum(), probe)
    images = 0.5 + 0.2 * torch.randn((BLOCK, *SIZE), generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (BLOCK,), generator=generator) * 2 - 1
    attacked = images + smoothing.radius * signs.view(-1, 1, 1, 1) * seen / seen.norm()
    bound = smoothing.bind(model)
    with torch.no_grad():
        certificate = bound.certify(images, generator)
        score = truth((attacked * seen).sum((1, 2, 3)), smoothing.sigma * float(seen.norm()))
        estimate = bound.scores(attacked, generator)
    return (*(int(_outside(values, certificate).sum()) for values in (score, estimate)), certificate.delta.mean())


def _outside(scores: Tensor, certificate: object) -> Tensor:
    slack = 1e-12  # of rounding
    return (scores < certificate.lower - slack) | (scores > certificate.upper + slack)  # type: ignore[attr-defined]


def simulate_network(method: str, *, cases: int, samples: int, confidence: float, seed: int = 0) -> Rates:
    """Return the same for a convolutional network with random weights, attacked by L2-PGD through the smoothing."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 1))
    plain = Preprocessing(size=None, mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
    generator = Generator().manual_seed(seed)
    images = torch.rand((cases, 3, 8, 8), generator=generator)
    with torch.no_grad():
        scores = body((images - 0.5) / 0.1)
    model = QualityModel(body, plain, scale=ScoreScale(float(scores.min()), float(scores.max())))
    kind = MedianSmoothing if method.endswith("ms") else MeanSmoothing
    denoiser = Blur() if method.startswith("d") else ""
    smoothing = kind(samples=samples, confidence=confidence, batch_size=2000, denoiser=denoiser)
    smoothed = Smoothed(model, smoothing, word=method)
    attack = L2PGD(epsilon=smoothing.radius, steps=20)
    with frozen(smoothed):
        certificate = smoothed.certify(images, generator)
        attacked = attack(smoothed.attacked_scores, images, generator)
        with torch.no_grad():
            true = replace(smoothing, samples=100_000).bind(model).scores(attacked, generator).double()
            estimate = smoothed(attacked).double()
    lost, missed = (int(_outside(values, certificate).sum()) for values in (true, estimate))
    width = float(certificate.delta.mean()) / model.scale.width  # type: ignore[union-attr]
    return Rates(f"{method}, network", cases, 1 - confidence, lost, missed, width)


def rows() -> Iterator[Rates]:
    """Yield every row of the table."""
    for confidence in (0.95, 0.999):
        for method in METHODS:
            yield simulate(method, cases=4000, samples=400, confidence=confidence, seed=1)
    for method in METHODS:
        yield simulate_network(method, cases=25, samples=1000, confidence=0.999)


def main() -> None:
    """Print the table."""
    print("| method | cases | α | true score outside | estimate outside | mean width | p |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for found in rows():
        true, empirical = found.true / found.cases, found.empirical / found.cases
        print(  # noqa: T201
            f"| {found.method} | {found.cases} | {found.alpha:.3g} | {true:.3%} | {empirical:.2%} | "
            f"{found.width:.3g} | {found.p_value:.2g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
