"""Metrics of purifiers against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from iqa_armor.metrics.fidelity import quality_score
from iqa_armor.metrics.robustness import gain_score


def test_equal_images_have_the_quality_that_the_paper_gives_them() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(quality_score(images, images), torch.full((2,), (1 + 150 / 80) / 2))


def test_quality_of_a_flat_shift_by_hand() -> None:
    # Flat images: SSIM has no structure left, (2·.5·.6 + C1) / (.25 + .36 + C1) with C1 = .01²; PSNR is 20 dB.
    clean, purified = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.6)
    similarity = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    expected = torch.tensor([(similarity + 20 / 80) / 2])
    torch.testing.assert_close(quality_score(clean, purified), expected, rtol=1e-4, atol=1e-4)


def test_gain_score_by_hand() -> None:
    clean, purified = torch.tensor([0.5, 0.4, -0.2, 0.01]), torch.tensor([0.6, 0.4, 0.2, 0.02])
    # The last one's denominator is the floor of 0.05.
    torch.testing.assert_close(gain_score(clean, purified), torch.tensor([0.2, 0.0, 2.0, 0.2]))


def test_scores_must_pair_up() -> None:
    with pytest.raises(ValueError, match=r"pair up, got \(2,\) and \(3,\)"):
        gain_score(torch.zeros(2), torch.zeros(3))
