"""The attack on the ranking: against brute force, by opinion and by the model's own scores, in every figure."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from test_evaluation import QUICK, SCORED, UNSCORED, image_set, model
from torch import Tensor, nn

from iqa_armor.data.base import Dataset
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.evaluation import evaluate
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.metrics.correlation import srocc
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.results.requirements import parse_requirement, unmet

RANKED = EvaluationSettings(attacks=(), ranking_epsilons=(0.25 / 255, 1 / 255, 8 / 255), resamples=50, batch_size=3)


class Weighted(nn.Module):
    """A score that is a weighted sum of the pixels, so the most that a budget moves it is known."""

    def __init__(self, size: int = 12) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 1.0, 3 * size * size).view(3, size, size))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).sum((1, 2, 3))


def weighted(*, higher_is_better: bool = True) -> QualityModel:
    scale = ScoreScale(0, 200, higher_is_better=higher_is_better)
    return QualityModel(Weighted(), Preprocessing(size=None, mean=(0.0,) * 3, std=(1.0,) * 3), scale=scale, name="w")


def moderate(count: int, seed: int) -> Dataset:
    """Images whose pixels have room on both sides, so that no budget of the test clips."""
    images = image_set(count, seed)
    return Dataset("csv:mid.csv", {"test": images.__class__(images.names, lambda i: images[i] // 2 + 60, images.mos)})


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_ranking_attack_is_the_worst_of_all_directions_on_linear_scores(higher_is_better: bool) -> None:
    data, subject = moderate(6, 5), weighted(higher_is_better=higher_is_better)
    found = evaluate([subject], [data], settings=RANKED).outcome.models[0]
    images = torch.stack([data.splits["test"][i] for i in range(6)]).float() / 255
    mos, sign = data.splits["test"].mos, 1 if higher_is_better else -1
    with torch.no_grad():
        clean, most = subject(images), subject.network.weight.abs().sum()
    for key, value in found.worst_case_srocc.items():
        # Every image as far up or down as the budget allows: 2^6 rankings, of which the median split is to be the worst
        # once the budget is large, and never better than what half up, half down gives by hand.
        ways = torch.where(mos < mos.median(), 1.0, -1.0)
        by_hand = float(srocc(sign * clean + ways * float(key) / 255 * most, mos))
        assert value == pytest.approx(by_hand)
    shift = 8 / 255 * most
    all_ways = (torch.tensor(ways) for ways in product((-1.0, 1.0), repeat=6))
    lowest = min(float(srocc(sign * clean + ways * shift, mos)) for ways in all_ways)
    assert found.worst_case_srocc["8"] <= lowest + 0.3


def test_rows_say_which_way_and_figures_are_theirs() -> None:
    done = evaluate([model("a")], [SCORED, UNSCORED], settings=QUICK)
    for dataset in (SCORED, UNSCORED):
        rows = done.table.where(dataset=dataset.spec)
        clean, attacked = rows.where(attack=""), rows.where(attack="ranking", budget="1")
        assert tuple(attacked["image"]) == tuple(clean["image"])
        assert (attacked["linf"] <= 1.001 / 255).all()
        assert (attacked["way"] * (attacked["score"] - clean["score"]) > 0).all()
        entry = done.outcome.models[0].datasets[dataset.spec]
        kept = srocc(*(torch.from_numpy(part["score"]) for part in (attacked, clean)))
        assert entry.rank_kept["1"] == pytest.approx(float(kept))
        assert entry.rank_kept_mean == entry.rank_kept["1"]
    mos, middle = SCORED.splits["test"].mos, SCORED.splits["training"].mos.median()
    rows = done.table.where(dataset=SCORED.spec, attack="ranking")
    assert rows["way"].tolist() == torch.where(mos < middle, 1.0, -1.0).tolist()
    # Without opinion the model's own clean scores decide: the lower half is raised.
    rows = done.table.where(dataset=UNSCORED.spec)
    clean = rows.where(attack="")["score"]
    raised = rows.where(attack="ranking")["way"] > 0
    assert 2 <= raised.sum() <= 3
    assert clean[raised].max() < clean[~raised].min()
    assert done.outcome.models[0].datasets[UNSCORED.spec].worst_case_srocc == {}
    assert done.outcome.models[0].worst_case_srocc["1"] < done.outcome.models[0].srocc


def test_every_attack_can_be_one_on_the_ranking() -> None:
    settings = QUICK.changed(direction="rank", attacks=("pgd1", "pgd8", "square:queries=3"))
    entry = evaluate([model("a")], [SCORED], settings=settings).outcome.models[0]
    plain = evaluate([model("a")], [SCORED], settings=QUICK).outcome.models[0]
    assert entry.attacks["pgd8"].srocc["4"] < plain.attacks["pgd8"].srocc["4"]
    assert entry.attacks["pgd8"].abs_gain["4"] > entry.attacks["pgd8"].abs_gain["2"] > 0
    assert entry.worst_case_srocc == plain.worst_case_srocc


def test_it_is_a_difference_a_ratio_and_a_requirement() -> None:
    found = evaluate([model("a"), model("b", 1)], [SCORED], baseline="a", settings=RANKED).outcome
    a, b = found.models
    difference = b.difference_to_baseline
    assert difference.worst_case_srocc["8"].value == pytest.approx(b.worst_case_srocc["8"] - a.worst_case_srocc["8"])
    assert b.worst_case_srocc_mean == pytest.approx(sum(b.worst_case_srocc.values()) / 3)
    assert difference.worst_case_srocc_mean.low <= difference.worst_case_srocc_mean.value
    for path in ("worst_case_srocc.1", "worst_case_srocc_mean", "difference_to_baseline.worst_case_srocc_mean.low"):
        assert unmet(parse_requirement(f"{path} <= 2"), found) == {}
    with pytest.raises(UsageError, match=r"did you mean 'worst_case_srocc\.1'"):
        unmet(parse_requirement("worst_case_srocc.1.5 >= 0"), found)


def test_it_can_be_left_out() -> None:
    found = evaluate([model("a")], [SCORED], settings=QUICK.changed(ranking="none"))
    assert found.outcome.models[0].worst_case_srocc_mean is None
    assert not len(found.table.where(attack="ranking"))


@pytest.mark.parametrize("word", ["uap", "advcf", "stadv", "l2pgd", "none:steps=2", "nothing"])
def test_attacks_that_cannot_be_turned_image_by_image_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="ranking"):
        EvaluationSettings(ranking=word)


def test_an_attack_that_learns_has_one_direction() -> None:
    with pytest.raises(UsageError, match="uap learns one pattern"):
        EvaluationSettings(attacks=("uap",), direction="rank")
