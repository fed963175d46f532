"""Scores and their gradients, nearest images within a budget, and ways up that keep the best image met."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from iqa_armor.attacks.base import Attack, Batches, Direction, ScoreFn
from iqa_armor.errors import ArmorError


def evaluate_score(score: ScoreFn, images: Tensor) -> Tensor:
    with torch.no_grad():
        return score(images)


def score_gradient(score: ScoreFn, images: Tensor) -> Tensor:
    """Return the gradient of every image's own score by its pixels, (N, 3, H, W); errors as below."""
    return score_and_gradient(score, images)[1]


def score_and_gradient(score: ScoreFn, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (N,) and the gradient of each image's own score by its pixels; an ArmorError if there is none."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        scores = score(images)
        gradient: Tensor | None = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(scores.sum(), images, allow_unused=True)
    if gradient is None:
        blind = "the score has no gradient by the pixels, so a gradient attack cannot run"
        raise ArmorError(f"{blind}; remove whatever detaches it from its input")
    return scores.detach(), gradient


def batches_of(batches: Batches) -> Iterator[Tensor]:
    """Yield the batches of one pass that hold images; a ValueError if none does."""
    is_empty = True
    for images in filter(len, batches()):
        is_empty = False
        yield images.detach()
    if is_empty:
        raise ValueError("an attack cannot be fitted without images; every pass over the batches must give some")


@torch.no_grad()
def mean_score(score: ScoreFn, attack: Attack, batches: Batches, generator: Generator) -> float:
    """Return the mean score of all images under an attack; errors as in `batches_of`."""
    scores = [evaluate_score(score, attack(score, images, generator)).double() for images in batches_of(batches)]
    return sum(float(each.sum()) for each in scores) / sum(map(len, scores))


def expectation(score: ScoreFn, samples: int) -> ScoreFn:
    """Return the mean of several evaluations of a random score, with the mean of their gradients (EOT).

    Gradients are summed as they come, so memory does not grow with `samples`, at least one. They are by the pixels
    only: parameters get none, and there is no second derivative. No image's score may depend on another image. An
    attack that keeps its best iterate chooses by noisy means, some of which are luck: score its result afresh.

    Source: expectation over transformation, Athalye et al., ICML 2018, arXiv:1802.00420, Section 4.2.
    """
    if samples < 1:
        raise ValueError(f"an expectation needs samples >= 1, got {samples}")

    def mean_score(images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            return _MeanScore.apply(images, score, samples)  # type: ignore[no-any-return]
        return torch.stack([evaluate_score(score, images) for _ in range(samples)]).mean(0)

    return mean_score


class _MeanScore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, score: ScoreFn, samples: int) -> Tensor:
        total, slope = score_and_gradient(score, images)
        for _ in range(samples - 1):
            scores, gradient = score_and_gradient(score, images)
            total, slope = total + scores, slope + gradient
        ctx.save_for_backward(slope / samples)
        return total / samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_score: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return per_image(by_score) * slope, None, None


def per_image(values: Tensor) -> Tensor:
    """Return one value per image, (N,), shaped (N, 1, 1, 1) so that it applies to whole images."""
    return values.view(-1, 1, 1, 1)


def project_linf(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images`, (N, 3, H, W) in any range, within epsilon of `center` in every value."""
    # Values inside the ball keep their bits, which is what lets budgets share gradients.
    return torch.clamp(images, center - epsilon, center + epsilon)


def project_l2(images: Tensor, center: Tensor, epsilon: float) -> Tensor:
    """Return the nearest images to `images` whose change from `center` has a Euclidean length of at most epsilon."""
    change = images - center
    lengths = torch.linalg.vector_norm(change.flatten(1), dim=1)
    shares = epsilon / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    return torch.where(per_image(lengths > epsilon), center + per_image(shares) * change, images)


def linf_box(images: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest pixels, (N, 3, H, W), within a radius, one or (N, 1, 1, 1), and within [0, 1]."""
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)


def divide_by_norm(gradient: Tensor, *, order: int) -> Tensor:
    """Return each image's gradient (N, 3, H, W) divided by its own norm of order 1 or 2; zero stays zero."""
    gradient = gradient.to(working(gradient.dtype))  # divided by the norm of a whole image, it is too small for half
    norms = torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1)
    return gradient / per_image(norms.clamp_min(torch.finfo(norms.dtype).tiny))


class Best:
    """The images (N, 3, H, W) with the largest gains (N,) so far, each on its own; NaN is never beaten or accepted."""

    def __init__(self, images: Tensor, gains: Tensor) -> None:
        self.images, self.gains = images, gains

    def update(self, images: Tensor, gains: Tensor) -> Tensor:
        """Keep what is better than before; return which images are, (N,) bool."""
        better = gains > self.gains
        self.images = torch.where(per_image(better), images.to(self.images.dtype), self.images)
        self.gains = torch.where(better, gains, self.gains)
        return better


def climb(
    score: ScoreFn, images: Tensor, move: Callable[[Tensor, Tensor], Tensor], *, direction: Direction, steps: int
) -> Tensor:
    """Return the images (N, 3, H, W) with the best scores on the way of an attacker, clean ones included.

    `move` maps images and the gradient of their scores to the next images, within the budget and [0, 1]; there are
    as many gradients as moves. The score and its error are those of `score_and_gradient`.
    """
    scores, gradient = score_and_gradient(score, images)
    best, attacked = Best(images, direction * scores), move(images, gradient)
    for _ in range(1, steps):
        scores, gradient = score_and_gradient(score, attacked)
        best.update(attacked, direction * scores)
        attacked = move(attacked, gradient)
    best.update(attacked, direction * evaluate_score(score, attacked))
    return best.images


@dataclass(frozen=True)
class Search:
    """What an attack optimizes: a parametrization of changed images, its limits and its price."""

    start: Tensor  # parameters (N, …) that render the clean images to the bit
    render: Callable[[Tensor], Tensor]  # from parameters to images (N, 3, H, W), differentiably, image by image
    project: Callable[[Tensor], Tensor]  # from parameters to the nearest allowed ones
    radius: float  # how far a parameter may move, in its own unit; weighs the penalty against the score
    penalty: Callable[[Tensor, Tensor], Tensor] | None = None  # parameters, their images → prices (N,), flat at start


def pixels_within(clean: Tensor, epsilon: float, penalty: Callable[[Tensor], Tensor]) -> Search:
    """Return the search among images within epsilon of clean ones in `working` precision, at prices (N,) of images."""
    return Search(
        start=clean,
        render=lambda attacked: attacked,
        project=lambda attacked: project_linf(attacked, clean, epsilon).clamp(0, 1),
        radius=epsilon,
        penalty=lambda _, attacked: penalty(attacked),
    )


def working(dtype: torch.dtype) -> torch.dtype:
    """Return the precision to optimize in: that of the images, float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def ascend(
    score: ScoreFn, images: Tensor, search: Search, *, direction: Direction, steps: int, step_size: float
) -> Tensor:
    """Return the images (N, 3, H, W) in [0, 1] with the best scores on Adam's way, clean ones included.

    The way of every image is uphill on direction · score / unit − penalty, where unit = radius · ‖∇ score‖₁ at the
    start: what a full move of all parameters would gain were the score linear. So prices weigh the same for all score
    scales. Parameters are in `working` precision, `step_size` is Adam's learning rate in their unit, and there is one
    gradient per step. A score without a gradient is an ArmorError.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, with β = (0.9, 0.999). (ours): the
    unit; projecting after every step; keeping the image with the best score, whatever its price, since an attack that
    returned the clean image as the best bargain would make a model look robust.
    """
    if not search.radius:
        return images.detach().clone()
    parameters = search.start.detach().clone()
    # ε is far below the gradients met here and far above their rounding: a parameter without influence rests.
    adam = torch.optim.Adam([parameters], lr=step_size, eps=1e-10, maximize=True)
    clean = unit = torch.ones(len(images), dtype=parameters.dtype, device=parameters.device)
    best = Best(images.detach(), torch.zeros_like(clean))
    for step in range(steps):
        pixels, scores, slope, price_slope = _measure(score, search, parameters, dtype=images.dtype)
        if step == 0:
            clean, length = scores, search.radius * slope.abs().flatten(1).sum(1)
            unit = torch.where(length > 0, length, unit)
        best.update(pixels, direction * (scores - clean))
        parameters.grad = direction * slope / unit.reshape(-1, *[1] * (slope.ndim - 1)) - price_slope
        adam.step()
        parameters.copy_(search.project(parameters))
    pixels = _pixels(search.render(parameters), images.dtype)
    best.update(pixels, direction * (evaluate_score(score, pixels).to(clean.dtype) - clean))
    return best.images


def _measure(
    score: ScoreFn, search: Search, parameters: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and scores (N,) at some parameters, and the gradients of score and price by the parameters."""
    with torch.enable_grad():
        free = parameters.detach().requires_grad_()
        rendered = search.render(free)
        pixels = _pixels(rendered.detach(), dtype)
        scores, by_pixels = (found.to(working(dtype)) for found in score_and_gradient(score, pixels))
        price_slope = torch.zeros_like(parameters)
        if search.penalty is not None:
            (price_slope,) = torch.autograd.grad(search.penalty(free, rendered).sum(), free, retain_graph=True)
        (slope,) = torch.autograd.grad(rendered, free, by_pixels)
    return pixels, scores, slope, price_slope


def _pixels(rendered: Tensor, dtype: torch.dtype) -> Tensor:
    # Clamped outside the graph: a pixel that rounding puts past 0 or 1 must not lose its gradient.
    return rendered.clamp(0, 1).to(dtype)
