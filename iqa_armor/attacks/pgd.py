"""Gradient steps within a budget: projected, on the sphere of one error, with momentum, smoothed over sources."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d

from iqa_armor.attacks.base import Direction, LinfAttack, Norm, ScoreFn
from iqa_armor.attacks.scores import (
    climb,
    divide_by_norm,
    expectation,
    linf_box,
    per_image,
    project_l2,
    project_linf,
    score_gradient,
    working,
)
from iqa_armor.limits import Count, Limited, NotNegative, Positive
from iqa_armor.randomness import drawn_from


@dataclass(frozen=True)
class PGD(LinfAttack):
    """Move the predicted score of an image inside an L-infinity ball.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    arXiv:1706.06083, Section 2.1; step and zero start as in [RA] Meleshin et al., arXiv:2506.04951.
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    step_size: Positive = 1 / 255  # length of one signed gradient step, in the same units
    steps: Count = 10  # number of gradient steps, from a zero start
    direction: Direction = +1  # +1 raises the score, -1 lowers it

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        attacked = images = images.detach()
        for _ in range(self.steps):
            attacked = project_linf(self.ascend(score, attacked), images, self.epsilon).clamp(0, 1)
        return attacked

    def ascend(self, score: ScoreFn, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) moved by one signed gradient step, not yet projected."""
        return images + self.direction * self.step_size * score_gradient(score, images).sign()


@dataclass(frozen=True)
class L2PGD(Limited):
    """Move the predicted score of an image inside an L2 ball around it.

    Source: as for `PGD`, for the L2 ball: steps along ∇/‖∇‖₂. The zero start, a step of a quarter of the radius, and
    returning the best iterate of every image instead of the last are (ours).
    """

    norm: ClassVar[Norm] = "l2"
    epsilon: NotNegative = 1.0  # largest length of an image's whole change in [0, 1]; 1/255 everywhere is √(3·H·W)/255
    step_share: Positive = 0.25  # length of one step as a share of epsilon, so that budgets compare
    steps: Count = 10  # number of gradient steps, from a zero start
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        length = self.direction * self.step_share * self.epsilon

        def move(attacked: Tensor, gradient: Tensor) -> Tensor:
            moved = attacked + (length * divide_by_norm(gradient, order=2)).to(images)
            # Clamping moves every value towards the clean one, so the images stay in the ball.
            return project_l2(moved, images, self.epsilon).clamp(0, 1)

        return climb(score, images, move, direction=self.direction, steps=self.steps)


@dataclass(frozen=True)
class MADC(Limited):
    """Move the predicted score of an image along the sphere of constant mean squared error around it.

    Source: Wang & Simoncelli, "Maximum differentiation (MAD) competition", Journal of Vision 2008, as the attack of
    [AP] Gushchin et al., arXiv:2404.06957, RMSE at most 10/255. (ours): the start is the sphere's point along the
    image's own gradient, not noise; steps have one length, not a searched one; the iterate with the best score is kept.
    """

    norm: ClassVar[Norm] = "rmse"
    epsilon: NotNegative = 10 / 255  # root mean square of an image's change; smaller only where values end at 0 or 1
    step_size: Positive = 4 / 255  # root mean square of one step along the sphere, in the same units
    steps: Count = 10  # number of gradients; the first leads from the image to the sphere
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        clean = images.detach().to(working(images.dtype))
        change, length = torch.zeros_like(clean), self.epsilon

        def move(_: Tensor, gradient: Tensor) -> Tensor:
            nonlocal change, length
            slope, radial = gradient.to(clean), _unit(change)
            tangent = _unit(slope - (slope * radial).mean((1, 2, 3), keepdim=True) * radial)
            moved = self.epsilon * _unit(change + self.direction * length * tangent)
            attacked = (clean + moved).clamp(0, 1)  # brings every value nearer to the clean one
            change, length = attacked - clean, self.step_size
            return attacked.to(images.dtype)

        return climb(score, images.detach(), move, direction=self.direction, steps=self.steps)


def _unit(vectors: Tensor) -> Tensor:
    """Scale every image's vector (N, 3, H, W) to a root mean square of 1; zero stays zero."""
    # By the largest value first: squares of small gradients would vanish.
    scaled = vectors / _positive(vectors.abs().amax((1, 2, 3), keepdim=True))
    return scaled / _positive(scaled.square().mean((1, 2, 3), keepdim=True).sqrt())


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)


@dataclass(frozen=True)
class MIFGSM(LinfAttack):
    """Move the predicted score inside an L-infinity ball, following gradients accumulated over the steps.

    Source: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv:1710.06081, Algorithm 1: g ← μ·g
    + ∇/‖∇‖₁, then a signed step. A step size of its own, not ε/T, and the best iterate, not the last, are (ours).
    """

    epsilon: NotNegative = 4 / 255  # ball radius, pixels being in [0, 1]
    step_size: Positive = 1 / 255  # length of one signed step, in the same units
    steps: Count = 10  # number of gradient steps, from a zero start
    momentum: NotNegative = 1.0  # share of the accumulated gradient that the next step keeps; 0 gives PGD
    direction: Direction = +1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        images = images.detach()
        low, high = linf_box(images, per_image(self.budgets(images)))
        accumulated = torch.zeros_like(images)

        def move(attacked: Tensor, gradient: Tensor) -> Tensor:
            nonlocal accumulated
            accumulated = self.momentum * accumulated + divide_by_norm(gradient, order=1)
            return torch.clamp(attacked + self.direction * self.step_size * accumulated.sign().to(images), low, high)

        return climb(score, images, move, direction=self.direction, steps=self.steps)

    def budgets(self, images: Tensor) -> Tensor:
        """Return the ball radius of every image (N,), at most `epsilon`."""
        return images.new_full((len(images),), self.epsilon)


@dataclass(frozen=True)
class AMIFGSM(MIFGSM):
    """MI-FGSM whose budget is small on flat images and whole on busy ones, where changes are hard to see.

    An image's radius is ε · clamp(c / full_contrast, 1/4, 1), c being the mean of the clean image's `contrast_map`.

    Source: the adaptive form of MI-FGSM among the attacks of [AP] Gushchin et al., arXiv:2404.06957, whose budget
    depends on a no-reference measure of the clean image; this measure, its limits and the bound by ε are (ours).
    """

    # From it an image gets the whole budget; of 61 photographs of NIPS 2017 and CLIVE a tenth does, the median is .04.
    full_contrast: Positive = 0.08

    def budgets(self, images: Tensor) -> Tensor:
        shares = (contrast_map(images).mean((1, 2, 3)) / self.full_contrast).clamp(0.25, 1)
        return self.epsilon * shares.to(images)


def contrast_map(images: Tensor) -> Tensor:
    """Return the deviation of the channels' mean in 7×7 pixels, cut at borders (ours), (N, 1, H, W) in [0, 0.5]."""
    gray = images.to(working(images.dtype)).mean(1, keepdim=True)
    gray = gray - gray.mean((2, 3), keepdim=True)  # E[x²] − E[x]² loses fewer digits around zero
    pooled = partial(avg_pool2d, kernel_size=7, stride=1, padding=3, count_include_pad=False)
    mean, power = pooled(gray), pooled(gray.square())
    return (power - mean.square()).clamp_min(0).sqrt()


@dataclass(frozen=True)
class SEGA(LinfAttack):
    """Move the score of an image by one step up the smoothed gradients of source models.

    Source: Liu et al., "SEGA: A Transferable Signed Ensemble Gaussian Black-Box Attack against No-Reference Image
    Quality Assessment Models", arXiv:2509.18546: gradients of several sources, smoothed by a Gaussian, together stand
    for that of the target; a filter mask takes away what would be seen. (ours), read from its abstract: each source's
    gradient is divided by its L1 norm before they are added; the mask goes by `contrast_map`; σ, draws and share.
    """

    epsilon: NotNegative = 8 / 255  # length of the step, pixels being in [0, 1]
    noise: NotNegative = 0.03  # standard deviation σ of the Gaussian that gradients are smoothed by, in the same units
    samples: Count = 8  # number of draws of it
    kept: Annotated[float, "(0, 1]"] = 0.9  # share of the pixels that change: those with most contrast around them
    direction: Direction = +1
    # Scores of known models, to which an evaluation adds the baseline's; that of the attacked model without any.
    sources: tuple[ScoreFn, ...] = field(default=(), repr=False)

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator | None = None) -> Tensor:
        images, generator = images.detach(), drawn_from(generator, images)

        def slope(source: ScoreFn) -> Tensor:
            def noisy(batch: Tensor) -> Tensor:
                drawn = torch.randn(batch.shape, generator=generator, device=generator.device)
                return source(batch + self.noise * drawn.to(batch))

            return divide_by_norm(score_gradient(expectation(noisy, self.samples), images), order=1)

        total = torch.stack([slope(source) for source in self.sources or (score,)]).sum(0)
        contrast = contrast_map(images)
        ordered = contrast.flatten(1).sort(descending=True).values
        mask = contrast >= per_image(ordered[:, math.ceil(self.kept * ordered.shape[1]) - 1])
        step = self.direction * self.epsilon * total.sign().to(images)
        return torch.clamp(images + step * mask, *linf_box(images, self.epsilon))
