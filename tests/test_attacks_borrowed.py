"""Attacks that go by other models: the step of SEGA, the transfer of Auto, and what an evaluation lends them; IOI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import memory_dataset
from torch import Tensor, nn
from white_subjects import BOTH, draw_images, tiny

from iqa_armor import EvaluationSettings, evaluate
from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.apgd import Auto
from iqa_armor.attacks.base import Borrowing, Direction
from iqa_armor.attacks.perceptual import IOI, without_low_frequencies
from iqa_armor.attacks.pgd import SEGA
from iqa_armor.errors import DataError, UsageError
from iqa_armor.evaluation.evaluation import Evaluation
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale

EPSILON = 4 / 255


def linear(seed: int = 0) -> Any:
    weights = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return weights, lambda images: (images * weights.to(images)).sum((1, 2, 3))


@pytest.mark.parametrize("direction", BOTH)
def test_sega_takes_the_sign_of_the_sources_and_asks_nothing_else(direction: Direction) -> None:
    images = 0.25 + 0.5 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    (first, f), (second, g) = linear(1), linear(2)
    # Each source counts by its gradient of unit length: ten times the scores change nothing.
    sources = (f, lambda batch: 10 * g(batch))
    total = first / first.abs().sum() + second / second.abs().sum()
    attack = SEGA(EPSILON, samples=2, kept=1.0, direction=direction, sources=sources)
    attacked = attack(lambda batch: pytest.fail("the target was asked"), images)
    torch.testing.assert_close(attacked, images + direction * EPSILON * total.sign())
    half = replace(attack, kept=0.5)(f, images) != images
    assert half.any(1).sum((1, 2)).tolist() == [128, 128]


def test_ioi_steps_along_high_frequencies_where_there_is_texture() -> None:
    images, (weights, score) = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)), linear()
    images[:, :, :, :8] = 0.5
    attacked = IOI(EPSILON, truncated=0.2)(score, images)
    moved = (attacked - images).abs()
    assert float(moved[..., :4].max()) < 1e-4  # windows reach 3 pixels
    assert float(moved[..., 8:].max()) == pytest.approx(EPSILON)
    change = without_low_frequencies(EPSILON * weights.sign()[None], 0.2)
    kept = torch.fft.fft2(change).abs() > 1e-5
    assert 0.8 <= float(kept.double().mean()) < 0.83  # frequencies of one length go together
    assert float(change.mean((2, 3)).abs().max()) < 1e-7
    whole = torch.fft.fft2(EPSILON * weights.sign())
    # Theorem 1, for the mean over the frequencies that are kept.
    assert float(change.abs().max()) <= float((whole.abs() * kept[0]).mean((1, 2)).max()) + 1e-6


@pytest.mark.parametrize("direction", BOTH)
def test_auto_takes_what_fooled_a_source_where_that_is_stronger(direction: Direction) -> None:
    model, images = tiny("smooth"), draw_images()

    def misleading(batch: Tensor) -> Tensor:
        """Its gradient is turned round, and each score lies on a plateau for small changes, so Square is blind."""
        score = model(batch)
        return score.detach().mul(2e2).round() / 2e2 - score + score.detach()

    plain = Auto(EPSILON, steps=4, restarts=1, queries=2, direction=direction)
    own, lent = (replace(plain, sources=sources)(misleading, images) for sources in ((), (model,)))
    assert isinstance(plain, Borrowing)
    with torch.no_grad():
        assert float((direction * (misleading(lent) - misleading(own))).min()) >= 0
        assert float((direction * (misleading(lent) - misleading(own))).mean()) > 0.002


@pytest.mark.parametrize("word", ["auto:sources=1", "sega:sources=a"])
def test_no_word_sets_sources(word: str) -> None:
    with pytest.raises(UsageError, match="unknown attack setting 'sources'; known are epsilon"):
        ATTACKS.read(word)


class Brightness(nn.Module):
    """The mean of the pixels, with so much of its gradient."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, images: Tensor) -> Tensor:
        score = images.mean((1, 2, 3))
        return score.detach() + self.share * (score - score.detach())


def models(size: int = 16) -> list[QualityModel]:
    """Return a baseline with a gradient, and another without one, for images of another height."""
    return [
        QualityModel(Brightness(share), Preprocessing((side, 16)), scale=ScoreScale(-1, 1), name=name).eval()
        for name, share, side in (("base", 1.0, 16), ("blind", 0.0, size))
    ]


def measured(attack: str, baseline: int | None, *, size: int = 16, output: Path | None = None) -> Evaluation:
    settings = EvaluationSettings(attacks=(attack,), epsilons=(EPSILON,), ranking="none", batch_size=4)
    return evaluate(models(size), [memory_dataset(4, 8)], settings=settings, baseline=baseline, output=output)


def gain(found: Evaluation, attack: str) -> float:
    return found.outcome.models[1].attacks[attack].abs_gain["4"]  # type: ignore[return-value]


@pytest.mark.parametrize("attack", ["sega:kept=1", "auto:steps=3,queries=2"])
def test_an_evaluation_lends_the_baseline(attack: str) -> None:
    assert gain(measured(attack, None), attack) < 0.01
    assert gain(measured(attack, 0), attack) > 0.03


def test_without_images_of_one_size_nothing_is_lent_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert gain(measured("sega", 0, size=24), "sega") < 1e-3
    assert "not tried on blind, whose images have another size" in caplog.text


def test_kept_results_belong_to_their_baseline(tmp_path: Path) -> None:
    measured("sega", 0, output=tmp_path)
    measured("sega", 0, output=tmp_path)
    with pytest.raises(DataError, match="lender differs"):
        measured("sega", 1, output=tmp_path)
