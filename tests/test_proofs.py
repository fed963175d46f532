"""Every step of surgery is compared with what it must equal, and random networks are told from wrong cuts."""

import random

import pytest
import torch
from conftest import memory_dataset
from torch import Tensor, nn

from iqa_armor.errors import SurgeryError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline import proofs
from iqa_armor.pipeline.harden import harden
from iqa_armor.recipe import Recipe


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.third, self.fc = nn.Conv2d(32, 32, 3, 2, 1), nn.Linear(32, 1)
        self.norm = nn.BatchNorm2d(16)
        self.calls = 0

    def features(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.norm(self.first(x)).relu()).relu()).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class Dropping(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.dropout(self.features(x)))


class BatchDependent(Body):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, track_running_stats=False)


class PythonRandom(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)) * random.uniform(0.5, 2.0)


class Frozen(Body):
    """A value of Python that the trace cannot see changing."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)) * (1.0 if isinstance(x, torch.fx.Proxy) else 3.0)


class SizeAsking(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x if x.shape[2] < 48 else x[:, :, ::2, ::2]))


def hardened(network: nn.Module, size: tuple[int, int] | None = (32, 32), **settings: object) -> list[dict]:
    torch.manual_seed(0)
    model = QualityModel(network, Preprocessing(size=size), name="subject")
    return harden(model, memory_dataset(training=16), Recipe(epochs=0, calibration=4, **settings)).provenance["checks"]


def test_checks_stand_in_the_provenance() -> None:
    spliced, pruned, folded, saved = hardened(Body())
    assert (folded["step"], saved["step"]) == ("folded = unfolded", "saved = loaded")
    assert saved["difference"] == 0
    assert (spliced["step"], pruned["step"]) == ("spliced = original", "pruned = original without the channels")
    assert spliced["difference"] <= spliced["tolerance"] == 1e-6
    assert pruned["difference"] <= 1e-9
    assert pruned["tolerance"] == 1e-4


@pytest.mark.parametrize("backend", ["cayley", "aoc", "aol"])
def test_identity_blocks_are_projections(backend: str) -> None:
    steps = {check["step"]: check for check in hardened(Body(), init="identity", pool="none", backend=backend)}
    assert steps["identity block = projection"]["difference"] <= 1e-3
    assert "identity block = projection" not in {check["step"] for check in hardened(Body(), backend=backend)}


@pytest.mark.parametrize("kind", [Dropping, BatchDependent, PythonRandom])
def test_scores_that_change_by_themselves_are_said_once(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(proofs.logger, "warning", said.append)
    checks = hardened(kind())
    assert ["scores of this network are random" in text for text in said] == [True]
    assert checks[0]["difference"] is None


def test_a_trace_that_froze_something_is_refused() -> None:
    with pytest.raises(SurgeryError, match="the traced network is not the original: scores differ by"):
        hardened(Frozen())


def test_a_graph_for_one_size_needs_that_size_recorded() -> None:
    assert len(hardened(SizeAsking())) == 4
    assert len(hardened(Body(), size=None)) == 4
    with pytest.raises(SurgeryError, match="serves one size only; name that size with --input-size"):
        hardened(SizeAsking(), size=None)
