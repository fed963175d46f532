"""Code of users that fails, changes what it is given or ends the process: one sentence, and never a wrong figure."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_training import fit_small, settings
from torch import Generator, Tensor, nn
from typer.testing import CliRunner

from iqa_armor.attacks.base import LinfAttack
from iqa_armor.attacks.plan import run_plan
from iqa_armor.cli import app
from iqa_armor.cli.console import stderr
from iqa_armor.defenses.base import Plain
from iqa_armor.defenses.defended import Purified
from iqa_armor.errors import ArmorError, DataError, ModelLoadError, OutputError, SurgeryError, calling
from iqa_armor.files import claiming
from iqa_armor.graph.trace import trace
from iqa_armor.report.evaluation_charts import ranking_curve
from iqa_armor.results.outcome import Outcome


def fail(error: type[BaseException]) -> None:
    raise error("boom")


class Doing(LinfAttack):
    epsilon, direction = 4 / 255, 1

    def __init__(self, act) -> None:
        self.act = act

    def __call__(self, score, images: Tensor, generator: Generator) -> Tensor:
        return self.act(images)


def attacked(act) -> Tensor:
    (found,) = run_plan({"mine": [Doing(act)]}, lambda images: images.mean((1, 2, 3)), IMAGES, generator=GENERATOR)
    return found.images


IMAGES = torch.full((2, 3, 8, 8), 0.5)


def GENERATOR(name: str) -> Generator:
    return Generator()


@pytest.mark.parametrize(
    "error", [ValueError, RuntimeError, RecursionError, StopIteration, OSError, KeyError, AssertionError]
)
def test_what_an_attack_raises_names_it(error: type[BaseException]) -> None:
    with pytest.raises(ArmorError, match=rf"attack mine failed: {error.__name__}: .?boom"):
        attacked(lambda images: fail(error))


@pytest.mark.parametrize("error", [DataError, KeyboardInterrupt, MemoryError, torch.OutOfMemoryError])
def test_what_is_said_elsewhere_passes(error: type[BaseException]) -> None:
    with pytest.raises(error, match="boom"), calling("it"):
        fail(error)


@pytest.mark.parametrize("value", [None, "x", [IMAGES]], ids=["nothing", "text", "list"])
def test_attacks_give_images(value: object) -> None:
    with pytest.raises(ArmorError, match=f"attack mine gives {type(value).__name__} in place of images"):
        attacked(lambda images: value)


def test_an_attack_cannot_change_what_it_is_compared_with() -> None:
    assert float(attacked(lambda images: images.zero_()).max()) == 0
    assert not attacked(lambda images: images.requires_grad_()).requires_grad
    assert torch.equal(IMAGES, torch.full((2, 3, 8, 8), 0.5))


class Purifying(Plain):
    def __init__(self, act) -> None:
        self.act = act

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return self.act(images)


@pytest.mark.parametrize("method", ["purify", "attacked_scores"])
def test_purifiers_fail_by_name_and_change_a_copy(method: str, make_model) -> None:
    images, generator = IMAGES.clone().requires_grad_(), [Generator()] if method == "purify" else []
    broken = Purified(make_model(), {"mine": Purifying(lambda images: fail(IndexError))})
    with pytest.raises(ModelLoadError, match="the purifier 'mine' failed: IndexError: boom"):
        getattr(broken, method)(images, *generator)
    darker = Purified(make_model(), {"mine": Purifying(lambda images: images.mul_(0.5))})
    getattr(darker, method)(images, *generator)
    assert torch.equal(images, IMAGES)
    nothing = Purified(make_model(), {"mine": Purifying(lambda images: None)})
    with pytest.raises(ModelLoadError, match="must keep the shape of images, but gave NoneType"):
        nothing.purify(IMAGES, Generator())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('boom')", "ValueError: boom"),
        ("return None", "AttributeError"),
        ("return scores - labels", "ValueError"),
        ("return scores.detach().mean()", "it has no gradient"),
    ],
)
def test_losses_are_tried_before_the_fit(body: str, says: str, make_model, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"def loss(scores, labels):\n    {body}\n")
    with pytest.raises(ArmorError, match=f"the loss .*mine.py:loss failed: .*{says}"):
        fit_small(make_model(), settings(epochs=1, loss=f"{tmp_path}/mine.py:loss"))


LEAVES = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--root', required=True)\n"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def make():\n    raise SystemExit", "the factory .* ended the process by exit()"),
        ("def make():\n    raise SystemExit(0)", "the factory .* ended the process by exit(0); have it return"),
        ("raise SystemExit(3)", "mine.py ended the process by exit(3); have it return or raise"),
        (f"{LEAVES}parser.parse_args()\ndef make(): ...", "mine.py ended the process by exit(2)"),
        ("class Mine(BaseException): ...\ndef make():\n    raise Mine('boom')", "failed: Mine: boom"),
        ("class Mine(BaseException): ...\nraise Mine('boom')", "mine.py cannot be run: Mine: boom"),
    ],
)
def test_code_that_ends_the_process_is_no_success(code: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    done = CliRunner().invoke(app, ["train", f"{tmp_path}/mine.py:make", "--data", "demo", "-o", "o.safetensors"])
    assert done.exit_code == ModelLoadError.exit_code
    assert re.search(says.replace("(", r"\(").replace(")", r"\)"), done.stderr), done.stderr


EXITING = """
from torch import nn
class Late(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def forward(self, images):
        if len(images) == 1 and images.mean() > 0.9:
            raise SystemExit
        return images.mean((1, 2, 3))
"""


def test_a_network_that_ends_the_process_while_it_scores_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(EXITING)
    Image.new("RGB", (16, 16), "white").save(tmp_path / "white.png")
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "w.pt")
    words = ["score", f"{tmp_path}/w.pt", f"{tmp_path}/white.png", "--arch", f"{tmp_path}/late.py:Late"]
    done = CliRunner().invoke(app, [*words, "--input-size", "own"])
    assert done.exit_code != 0
    assert "exit()" in done.stderr


@pytest.mark.parametrize("value", ["x", None, 3.0])
def test_a_network_whose_result_is_none_of_the_image_is_refused(value: object) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> object:
            return value

    with pytest.raises(SurgeryError, match=r"does not depend on the image|gives"):
        trace(Constant(), IMAGES)


def test_words_between_colons_stay_words(capsys: pytest.CaptureFixture[str]) -> None:
    with stderr.capture() as captured:
        stderr.print("mine.py:A:PATH :a: :smile:")
    assert captured.get() == "mine.py:A:PATH :a: :smile:\n"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_claim_that_is_no_file_is_refused_at_once(make, tmp_path: Path) -> None:
    make(tmp_path / ".out.claimed")
    with pytest.raises(OutputError, match=r"\.out\.claimed is no file"), claiming(tmp_path / "out", overwrite=True):
        pytest.fail("claimed")


def test_scores_that_are_all_the_same_under_attack_are_drawn() -> None:
    outcome = Outcome.from_json((Path(__file__).parent / "data" / "legacy" / "outcome.json").read_text())
    constant = outcome.models[0].model_copy(update={"srocc": 0.5, "worst_case_srocc": {"1": None, "4": None}})
    (chart,) = ranking_curve(outcome.model_copy(update={"models": (constant,)}))
    assert [math.isnan(value) for _, value in chart.series[0].points] == [False, True, True]
