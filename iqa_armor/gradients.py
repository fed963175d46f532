"""Maps that are computed one way and differentiated another."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NAMES = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "detach")
_PASSED = frozenset(getattr(home, name) for name in _NAMES for home in (torch, Tensor))
ImageMap = Callable[[Tensor], Tensor]


def straight_through(exact: ImageMap, surrogate: ImageMap | None = None) -> ImageMap:
    """Return a map of images that computes one thing and is differentiated as another.

    `exact` is computed, (N, 3, H, W) to (N, 3, H', W'), without gradients, so that it may leave torch; the backward is
    that of a `surrogate` near it, the identity if None. The map raises ValueError where that gives another shape.
    Source: backward pass differentiable approximation, Athalye et al., "Obfuscated Gradients Give a False Sense of
    Security", ICML 2018, arXiv:1802.00420, Section 4.1.
    """

    def mapped(images: Tensor) -> Tensor:
        with torch.no_grad():
            values = exact(images.detach())
        if not (torch.is_grad_enabled() and images.requires_grad):
            return values
        stand_in = images if surrogate is None else surrogate(images)
        if stand_in.shape != values.shape:
            shapes = f"{tuple(values.shape)}, got {tuple(stand_in.shape)}"
            raise ValueError(f"a surrogate must give the shape of what it stands for, {shapes}")
        through: Tensor = _Replaced.apply(stand_in, values)
        return through

    return mapped


class _Replaced(torch.autograd.Function):
    """The values of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, stand_in: Tensor, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, by_values: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return by_values, None


class PassThrough(TorchFunctionMode):
    """While it is entered, rounding, signs and detaching pass gradients on; `passed` counts those that were wanted.

    Source: Athalye et al., ICML 2018, arXiv:1802.00420, Section 4.1 (BPDA with the identity); finding the steps by
    intercepting PyTorch's functions is (ours).
    """

    passed = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rest = kwargs or {}
        is_step = func in _PASSED and args and isinstance(args[0], Tensor) and args[0].requires_grad
        if not (is_step and torch.is_grad_enabled()):
            return func(*args, **rest)
        self.passed += 1
        return straight_through(lambda tensor: func(tensor, *args[1:], **rest))(args[0])
