import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from iqa_armor.metrics.correlation import average_ranks, chance_srocc, order_codes, plcc, plcc_logistic, srocc
from iqa_armor.metrics.fidelity import l2, linf, psnr, ssim
from iqa_armor.metrics.robustness import abs_gain, abs_gain_std, abs_gain_unsigned, auc, r_score


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_srocc_by_hand() -> None:
    # one adjacent swap in four: 1 - 6·2 / (4·15)
    assert srocc(t(1, 2, 3, 4), t(10, 30, 20, 40)).item() == pytest.approx(0.8)


def test_srocc_gives_ties_their_average_rank() -> None:
    assert srocc(t(1, 1, 2), t(1, 2, 3)).item() == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@pytest.mark.parametrize("count", [2, 4, 5, 6, 7, 10, 30, 200])
def test_chance_exceeds_its_srocc_in_one_of_forty_cases(count: int) -> None:
    drawn = torch.rand(2, 4000, count, generator=torch.Generator().manual_seed(0))
    share = float((srocc(*drawn) > chance_srocc(count)).double().mean())
    assert share <= 1 / 40 + 0.005
    assert (share == 0) == (count < 6)


def test_plcc_by_hand() -> None:
    assert plcc(t(1, 2, 3), t(1, 2, 4)).item() == pytest.approx(3 / math.sqrt(2 * 42 / 9))


def test_correlations_agree_with_scipy_along_the_last_dimension() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (3, 40), generator=generator).double()
    mos = scores + torch.randn(3, 40, generator=generator).double()
    for row in range(3):
        assert srocc(scores, mos)[row].item() == pytest.approx(stats.spearmanr(scores[row], mos[row])[0])
        assert plcc(scores, mos)[row].item() == pytest.approx(stats.pearsonr(scores[row], mos[row])[0])


def test_ranks_of_order_codes_equal_ranks_of_values() -> None:
    values = t(0.3, -2.0, 0.3, 9.5, 1.0)
    rows = torch.randint(0, 5, (50, 5), generator=torch.Generator().manual_seed(1))
    assert torch.equal(average_ranks(order_codes(values)[rows]), average_ranks(values[rows]))
    assert average_ranks(values).tolist() == [2.0, 0.5, 2.0, 4.5, 3.5]


@pytest.mark.parametrize("correlation", [srocc, plcc, plcc_logistic])
def test_correlation_of_a_constant_is_nan(correlation: object) -> None:
    constant, varied = t(*[0.1] * 5), t(1, 2, 3, 4, 5)
    assert correlation(constant, varied).isnan()  # type: ignore[operator]
    assert correlation(varied, constant).isnan()  # type: ignore[operator]
    assert correlation(t(1), t(2)).isnan()  # type: ignore[operator]


def test_logistic_fit_straightens_a_logistic_relation() -> None:
    scores = torch.linspace(-6, 6, 40).double()
    mos = 20 + 60 * torch.sigmoid((scores - 1) / 0.7)
    assert plcc(scores, mos) < 0.97
    assert plcc_logistic(scores, mos).item() == pytest.approx(1.0, abs=1e-6)
    assert plcc_logistic(-scores, mos).item() == pytest.approx(1.0, abs=1e-6)


def test_abs_gain_by_hand() -> None:
    gain = abs_gain(torch.tensor([40.0, 60.0]), torch.tensor([50.0, 80.0]), score_range=100.0)
    torch.testing.assert_close(gain, torch.tensor(0.15))


def test_abs_gain_unsigned_does_not_cancel() -> None:
    clean, attacked = t(40, 60), t(50, 50)
    assert abs_gain(clean, attacked, 100).item() == 0
    assert abs_gain_unsigned(clean, attacked, 100).item() == pytest.approx(0.1)


def test_abs_gain_std_by_hand() -> None:
    assert abs_gain_std(t(1, 3), t(2, 4)).item() == pytest.approx(1 / math.sqrt(2))
    assert abs_gain_std(t(2, 2), t(3, 3)).isnan()
    assert abs_gain_std(t(2), t(3)).isnan()


@pytest.mark.parametrize(
    ("clean", "attacked", "expected"),
    [
        (20, 40, math.log10(0.6 / 0.2)),  # room above is the larger
        (90, 95, math.log10(0.9 / 0.05)),  # room below is the larger
        (50, 50, math.log10(0.5 / 1e-6)),  # floor of the denominator
        (0, 200, math.log10(1e-6 / 2)),  # floor of the numerator
    ],
)
def test_r_score_by_hand(clean: float, attacked: float, expected: float) -> None:
    assert r_score(t(clean), t(attacked), low=0, high=100).item() == pytest.approx(expected)


def test_r_score_is_the_mean_over_images() -> None:
    both = r_score(t(20, 90), t(40, 95), low=0, high=100).item()
    assert both == pytest.approx((math.log10(3) + math.log10(18)) / 2)


def test_auc_reads_as_a_mean() -> None:
    assert auc(t(1, 3), [2, 4]).item() == pytest.approx(2)
    assert auc(t(0, 0, 3), [0, 1, 3]).item() == pytest.approx(1)
    assert auc(t(7, 7, 7), [2 / 255, 4 / 255, 10 / 255]).item() == pytest.approx(7)
    assert auc(t(5), [4 / 255]).item() == 5


def test_distances_by_hand() -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    attacked = clean.clone()
    attacked[1] += 0.1
    torch.testing.assert_close(linf(clean, attacked), t(0, 0.1).float(), atol=1e-7, rtol=0)
    torch.testing.assert_close(l2(clean, attacked), t(0, 0.1 * math.sqrt(48)).float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(psnr(clean, attacked), t(150, 20).float(), atol=1e-4, rtol=0)


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    clean, attacked = torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.6)
    assert ssim(clean, attacked).item() == pytest.approx((0.48 + 1e-4) / (0.52 + 1e-4), abs=5e-4)
    assert ssim(clean, clean).tolist() == pytest.approx([1.0])


def test_metrics_refuse_what_does_not_pair_up() -> None:
    with pytest.raises(ValueError, match="pair up"):
        srocc(t(1, 2), t(1, 2, 3))
    with pytest.raises(ValueError, match="pair up"):
        abs_gain(t(1, 2), t(1, 2, 3), 1.0)
    with pytest.raises(ValueError, match="positive"):
        r_score(t(1), t(1), low=1, high=1)
    with pytest.raises(ValueError, match="ascending"):
        auc(t(1, 2), [4, 2])
    with pytest.raises(ValueError, match="vectors"):
        plcc_logistic(torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="pair up"):
        linf(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(ValueError, match="11×11"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
