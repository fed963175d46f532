"""Every step of surgery is compared with what it must equal, and random networks are told from wrong cuts."""

import random
from pathlib import Path

import pytest
import torch
from conftest import memory_dataset
from torch import Tensor, nn

from iqa_armor import save_model, train
from iqa_armor.errors import SurgeryError
from iqa_armor.models.base import Preprocessing, QualityModel
from iqa_armor.pipeline import inspect
from iqa_armor.pipeline.harden import harden
from iqa_armor.recipe import Recipe, Training


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


class WritingInParts(Body):
    """What is written into a part must be read in the whole, which a graph of values does not show."""

    def written(self, x: Tensor) -> Tensor:
        whole = torch.zeros_like(x)
        part = whole[:, ::2]
        part[:] = x[:, ::2]
        return whole

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.written(self.features(x)))


class AddingToParts(WritingInParts):
    def written(self, x: Tensor) -> Tensor:
        whole = x.clone()
        left, right = whole.chunk(2, 1)
        left += right
        return whole


class CopyingIntoParts(WritingInParts):
    def written(self, x: Tensor) -> Tensor:
        whole = x.clone()
        part = whole.view(len(x), 4, -1)
        part[:, 1].copy_(part[:, 2])
        return whole


class WritingInPlace(WritingInParts):
    def written(self, x: Tensor) -> Tensor:
        whole = x.clone()
        whole[:, ::2] = x[:, 1::2]
        whole[:, 3:5].zero_()
        return whole


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
    monkeypatch.setattr(inspect.logger, "warning", said.append)
    checks = hardened(kind())
    assert ["scores of this network are random" in text for text in said] == [True]
    assert checks[0]["difference"] is None


@pytest.mark.parametrize("kind", [Frozen, WritingInParts, AddingToParts])
def test_a_trace_that_lost_something_is_refused(kind: type[nn.Module], tmp_path: Path) -> None:
    says = "the traced network is not the original: scores differ by .* writing into a part of a tensor"
    with pytest.raises(SurgeryError, match=says):
        hardened(kind())
    model = QualityModel(kind(), Preprocessing(size=(32, 32))).eval()
    with pytest.raises(SurgeryError, match=says):
        save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(SurgeryError, match=says):
        train(model, memory_dataset(training=16), Training(epochs=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [WritingInPlace, CopyingIntoParts])
def test_what_methods_and_slices_write_is_followed(kind: type[nn.Module]) -> None:
    assert hardened(kind())[0]["difference"] <= 1e-6


def test_a_graph_for_one_size_needs_that_size_recorded() -> None:
    assert len(hardened(SizeAsking())) == 4
    assert len(hardened(Body(), size=None)) == 4
    with pytest.raises(SurgeryError, match="serves one size only; name that size with --input-size"):
        hardened(SizeAsking(), size=None)
