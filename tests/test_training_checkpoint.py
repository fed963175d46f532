"""Interrupted fits continue bit for bit; their files are whole, owned, and cleared of what killed runs left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CPU
from test_training import fit_small, settings
from torch import nn

from iqa_armor.errors import OutputError, RecipeError
from iqa_armor.files import MARK
from iqa_armor.models.base import QualityModel
from iqa_armor.recipe import Training
from iqa_armor.training import fit as fitting
from iqa_armor.training.accelerator import accelerator_on
from iqa_armor.training.checkpoint import Checkpoint
from iqa_armor.training.history import ScoreMoments


class Stopped(Exception):
    pass


def stop_in_the_middle(task: str, done: int, total: int, detail: str = "") -> None:
    if not detail and done > total // 2:
        raise Stopped


def dropping(make_model: Any, seed: int = 0) -> QualityModel:
    model: QualityModel = make_model(seed)
    model.network.insert(-1, nn.Dropout(0.5))
    return model


def interrupt(make_model: Any, asked: Training, path: Path) -> None:
    with pytest.raises(Stopped):
        fit_small(dropping(make_model), asked, checkpoint=Checkpoint(path, "f"), progress=stop_in_the_middle)


def require_same_after_resuming(make_model: Any, asked: Training, path: Path) -> None:
    whole, again = dropping(make_model), dropping(make_model, seed=5)
    uninterrupted = fit_small(whole, asked)
    resumed = fit_small(again, asked, checkpoint=Checkpoint(path, "f", resumes=True))
    assert resumed.best == uninterrupted.best
    assert [e.loss for e in resumed.epochs[1:]] == [e.loss for e in uninterrupted.epochs[1:]]
    assert len({e.seconds for e in resumed.epochs} & {e.seconds for e in uninterrupted.epochs}) == 0
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("defense", ["none", "nt", "at"])
def test_resumed_fit_equals_an_uninterrupted_one(make_model, tmp_path: Path, defense: str) -> None:
    asked = settings(epochs=4, defense=defense)
    interrupt(make_model, asked, tmp_path / "resume.pt")
    require_same_after_resuming(make_model, asked, tmp_path / "resume.pt")


def test_state_written_by_version_0_1_0_resumes(make_model, tmp_path: Path) -> None:
    asked, path = settings(epochs=4), tmp_path / "resume.pt"
    interrupt(make_model, asked, path)
    state = torch.load(path, weights_only=True)
    state["schedule"]["lr_lambdas"] = [{"steps": 28}]
    torch.save({key: value for key, value in state.items() if key not in ("cuda_random", "scaler")}, path)
    require_same_after_resuming(make_model, asked, path)


def test_the_scale_of_half_precision_gradients_is_resumed(
    make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers: list[torch.amp.GradScaler] = []

    @contextmanager
    def scaling(device: torch.device, *, precision: str, **told: Any) -> Iterator[Any]:
        with accelerator_on(device, precision=precision, **told) as accelerator:
            scalers.append(torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3))
            accelerator.scaler = scalers[-1]
            yield accelerator

    monkeypatch.setattr(fitting, "accelerator_on", scaling)
    asked = settings(epochs=4)
    interrupt(make_model, asked, tmp_path / "resume.pt")
    require_same_after_resuming(make_model, asked, tmp_path / "resume.pt")
    _, whole, resumed = scalers
    assert whole.get_scale() > 4
    assert resumed.state_dict() == whole.state_dict()


def test_the_generator_of_the_cuda_device_is_kept(make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, drawn = torch.device("cuda", 1), torch.arange(4, dtype=torch.uint8)
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda which: asked.append(which) or drawn)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, which: asked.append((state.tolist(), which)))
    model = make_model()

    class Anywhere:
        """An accelerator that says it is on CUDA and computes here."""

        scaler = None

        def __init__(self, real: Any) -> None:
            self.prepare, self.backward, self.log, self.device = real.prepare, real.backward, real.log, device

    from test_training import images_of

    path = tmp_path / "resume.pt"
    with accelerator_on(CPU, precision="no") as real:
        labels = ScoreMoments()
        part = fitting._Fitting(
            model,
            images_of(model),
            settings(),
            labels=labels,
            teacher=None,
            accelerator=Anywhere(real),
            is_frozen=False,
        )
        part._note(0, float("nan"), time.perf_counter())
        Checkpoint(path).write(part._state())
        part._restore(Checkpoint(path))
    assert asked == [device, (drawn.tolist(), device)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_resumed_fit_equals_an_uninterrupted_one_on_cuda(make_model, tmp_path: Path, precision: str) -> None:
    asked, device = settings(epochs=4, precision=precision), torch.device("cuda", 0)
    whole, part, again = (dropping(make_model, seed) for seed in (0, 0, 5))
    fit_small(whole, asked, device=device)
    checkpoint = Checkpoint(tmp_path / "r.pt", "f")
    with pytest.raises(Stopped):
        fit_small(part, asked, device=device, checkpoint=checkpoint, progress=stop_in_the_middle)
    fit_small(again, asked, device=device, checkpoint=Checkpoint(tmp_path / "r.pt", "f", resumes=True))
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "resume.pt", "one").write({})
    with pytest.raises(RecipeError, match="other settings"):
        Checkpoint(tmp_path / "resume.pt", "two").read()


@pytest.mark.parametrize("content", [b"no checkpoint", b"", b"PK\3\4"])
def test_broken_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "resume.pt").write_bytes(content)
    with pytest.raises(RecipeError, match="without --resume"):
        Checkpoint(tmp_path / "resume.pt", "f").read()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "resume.pt")
    with pytest.raises(RecipeError, match="another model"):
        Checkpoint(tmp_path / "resume.pt", "f").read()


def test_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    kept = Checkpoint(path, "f")
    kept.write({"step": 1})
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        kept.write({"step": lambda: None})
    assert kept.read()["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused_before_the_fit(make_model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def never(*_: object) -> None:
        raise AssertionError("the fit has started")

    with pytest.raises(OutputError, match="cannot write"):
        fit_small(make_model(), settings(), checkpoint=Checkpoint(tmp_path / "file" / "r.pt"), progress=never)


def test_leftovers_of_killed_runs_go_and_nothing_else(make_model, tmp_path: Path) -> None:
    path = tmp_path / ".out.resume.pt"
    leftovers = [tmp_path / f"..out.resume.pt.{name}" for name in ("abc_12xy", "00000000")]
    foreign = [
        tmp_path / name for name in ("..out.resume.pt.notes.txt", "..other.resume.pt.abc_12xy", ".out.resume.pt2")
    ]
    for file in (*leftovers, *foreign):
        file.write_bytes(b"half")
    (tmp_path / f".{path.name}{MARK}dead").mkdir()
    (tmp_path / f".{path.name}{MARK}dead" / path.name).write_bytes(b"half")
    fit_small(make_model(), settings(epochs=1), checkpoint=Checkpoint(path, "f"))
    assert sorted(tmp_path.iterdir()) == sorted([path, *foreign])


WRITER = """
import sys, time
from pathlib import Path
import torch
from iqa_armor.training.checkpoint import Checkpoint

class Slow:
    def __reduce__(self):
        print("writing", flush=True)
        time.sleep(60)
        return (int, ())

Checkpoint(Path(sys.argv[1]), "f").write({"step": torch.zeros(1000), "slow": Slow()})
"""


def test_a_run_killed_while_it_writes_leaves_the_last_state_and_no_leftovers(tmp_path: Path) -> None:
    path = tmp_path / ".out.resume.pt"
    Checkpoint(path, "f").write({"step": 1})
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    assert Checkpoint(path, "f").read()["step"] == 1
    Checkpoint(path, "f").prepare()
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_with_too_little_room_is_told_before_the_first_epoch(
    make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, checkpoint = make_model(0), Checkpoint(tmp_path / "resume.pt")
    least = 4 * sum(value.nbytes for value in model.state_dict().values())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=least - 1))
    steps: list[str] = []
    with pytest.raises(OutputError, match=r"takes .* MiB at least: there are .* MiB free"):
        fit_small(model, settings(epochs=1), checkpoint=checkpoint, progress=lambda task, *_: steps.append(task))
    assert "fine-tuning" not in steps
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=least))
    fit_small(model, settings(epochs=1), checkpoint=checkpoint)
    assert checkpoint.path.stat().st_size > least  # what is asked for is no more than it takes
