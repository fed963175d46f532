"""Functions and methods that networks call are stored, by whichever of torch's names for their arguments."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from iqa_armor.artifact.storage import rebuilt
from iqa_armor.graph.trace import trace
from iqa_armor.models.base import Preprocessing, QualityModel

Maps = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A convolution whose maps (N, 4, 6, 6) are turned into whatever `of` makes of them."""

    def __init__(self, of: Maps) -> None:
        super().__init__()
        self.conv, self.of = nn.Conv2d(3, 4, 3, 2), of

    def forward(self, images: Tensor) -> Tensor:
        return self.of(self.conv(images)).flatten(1).float().mean(1)


ORDER = torch.tensor([1, 0, 3, 2])
KEPT = torch.tensor([True, False, True, True])
SYMMETRIC = 2 * torch.eye(6)
CALLS: dict[str, Maps] = {
    "axis": lambda x: x.mean(axis=(2, 3)),
    "axis and keepdims": lambda x: x - torch.amax(x, axis=1, keepdims=True),
    "joined along an axis": lambda x: torch.cat([x, x], axis=1),
    "softmax along an axis": lambda x: torch.softmax(x, axis=1),
    "boolean index": lambda x: x[:, KEPT],
    "boolean index of places": lambda x: x[:, :, KEPT[:3].repeat(2).view(6, 1) & KEPT[1:].repeat(2)],
    "boolean index at the end": lambda x: x[..., KEPT[:3].repeat(2)],
    "diff": lambda x: torch.diff(x, dim=3),
    "diff twice": lambda x: x.diff(2, dim=-1),
    "nansum": lambda x: x.nansum((2, 3)),
    "nanmean": lambda x: torch.nanmean(x, dim=1),
    "clamp_min": lambda x: torch.clamp_min(x, 0.1),
    "clip": lambda x: x.clip(-0.5, 0.5),
    "huber_loss": lambda x: functional.huber_loss(x, torch.zeros_like(x), reduction="none"),
    "logit": lambda x: torch.logit(x.sigmoid(), 1e-3),
    "take_along_dim": lambda x: torch.take_along_dim(x, ORDER.view(1, 4, 1, 1), dim=1),
    "dist": lambda x: torch.stack([torch.dist(each, torch.zeros_like(each)) for each in x[:1].unbind(1)]).expand(2, 4),
    "logdet": lambda x: (x.matmul(x.mT) + SYMMETRIC).logdet(),
    "slogdet": lambda x: torch.linalg.slogdet(x.matmul(x.mT) + SYMMETRIC)[1],
    "inverse": lambda x: torch.linalg.inv(x.matmul(x.mT) + SYMMETRIC),
    "matrix norm": lambda x: torch.linalg.matrix_norm(x),
    "complex": lambda x: torch.fft.ifft2(torch.complex(x, x)).real,
    "polar": lambda x: torch.fft.ifft2(torch.polar(x.abs(), x)).abs(),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, ORDER.view(1, 4, 1, 1).expand_as(x), x),
    "index_add": lambda x: torch.zeros_like(x).index_add(1, ORDER, x),
    "index_fill": lambda x: x.index_fill(1, ORDER[:1], 0.5),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "logaddexp": lambda x: torch.logaddexp(x, 2 * x),
    "copysign": lambda x: torch.copysign(x.square(), x),
    "cross": lambda x: torch.cross(x[:, :3], 2 * x[:, 1:], dim=1),
    "trapezoid": lambda x: torch.trapezoid(x, dim=3),
    "isclose": lambda x: torch.isclose(x, torch.zeros_like(x), atol=0.2),
    "broadcast_to": lambda x: torch.broadcast_to(x.mean((2, 3), keepdim=True), x.shape),
    "tensor_split": lambda x: torch.tensor_split(x, 2, dim=1)[1],
    "moveaxis": lambda x: torch.moveaxis(x, 1, -1).exp2(),
    "in place": lambda x: x.square().add_(1).sqrt_().unsqueeze_(1),
    "ravel": lambda x: torch.stack([each.ravel() for each in x.unbind(1)], axis=1).view(-1, 144),
    "bucketize": lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5)),
    "kron": lambda x: torch.kron(x, torch.ones(1, 1, 2, 2)),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_what_is_called_is_stored(call: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 14, 14)
    network = Network(CALLS[call]).eval()
    traced = trace(network, images[:1])
    assert torch.equal(traced(images), network(images))
    model = QualityModel(traced, Preprocessing(size=(14, 14)), name="named")
    assert torch.equal(rebuilt(model).network(images), network(images))
