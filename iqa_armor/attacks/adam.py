"""Adam on the parameters of changed images, every image on its own, with the best of each kept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iqa_armor.attacks.base import Direction, ScoreFn
from iqa_armor.attacks.scores import Best, evaluate_score, project_linf, score_and_gradient


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
