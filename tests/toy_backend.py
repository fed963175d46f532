"""A backend as a researcher would write it: one class, for the contract of tests/test_ortho.py."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from iqa_armor.ortho.layer import FoldedConv2d


class PointwiseConv2d(FoldedConv2d):
    """The same orthonormal columns at every pixel, by a QR decomposition of the weight (C_out, C_in)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.sample()

    def sample(self, generator: Generator | None = None) -> None:
        nn.init.normal_(self.weight, generator=generator)
        nn.init.zeros_(self.bias)

    def right_inverse(self, matrix: Tensor) -> dict[str, Tensor]:
        return {"weight": matrix}

    def kernel(self) -> Tensor:
        working = torch.promote_types(self.weight.dtype, torch.float32)
        columns, triangle = torch.linalg.qr(self.weight.to(working))
        margin = self.kernel_size // 2
        return functional.pad((columns * triangle.diagonal().sign())[..., None, None], (margin,) * 4)
