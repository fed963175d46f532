from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from iqa_armor.attacks import ATTACKS
from iqa_armor.attacks.base import Direction, Norm, ScoreFn
from iqa_armor.attacks.pgd import PGD
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.errors import ArmorError, ModelLoadError, UsageError
from iqa_armor.evaluation.evaluation import evaluate
from iqa_armor.evaluation.scale import count_flops, measure_scale
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.metrics.correlation import srocc
from iqa_armor.metrics.robustness import abs_gain
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.ortho.block import RobustBlock
from iqa_armor.progress import Progress
from iqa_armor.registry import Entry
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome

QUICK = EvaluationSettings(epsilons=(2 / 255, 4 / 255), ranking_epsilons=(1 / 255,), resamples=60, batch_size=4)


def image_set(count: int, seed: int, *, size: int = 12, has_scores: bool = True) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    mos = pixels.double().mean((1, 2, 3)) + torch.randn(count, generator=generator).double()
    names = tuple(f"{seed}-{i}.png" for i in range(count))
    return ImageSet(names, lambda index: pixels[index], mos if has_scores else None)


def model(name: str, seed: int = 0, *, scale: ScoreScale | None = ScoreScale(-1, 1)) -> QualityModel:  # noqa: B008
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 1, 3)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return QualityModel(network, Preprocessing(size=(12, 12)), scale=scale, name=name, arch="toy")


SCORED = Dataset("csv:toy.csv", {"training": image_set(9, 1), "test": image_set(14, 2)})
UNSCORED = Dataset("nips2017:toy", {"test": image_set(6, 3, size=15, has_scores=False)}, keeps_size=True)


def run(models: Sequence[QualityModel], datasets: Sequence[Dataset] = (SCORED,), **options: Any) -> Outcome:
    return evaluate(models, datasets, **({"settings": QUICK} | options)).outcome


Told = tuple[str, int, int]


def told(seen: list[Told]) -> Progress:
    """Return a receiver of progress that notes what it is told."""
    return lambda task, done, total, detail="": seen.append((task, done, total))


def without_timing(outcome: Outcome) -> list[ModelEntry]:
    return [entry.model_copy(update={"timing": None, "ratio_to_baseline": None}) for entry in outcome.models]


def test_figures_equal_those_computed_by_hand() -> None:
    network = model("m").eval()
    images = torch.stack([SCORED.splits["test"][i] for i in range(14)]).float() / 255
    attacked = PGD(epsilon=4 / 255, steps=8)(network, images, Generator())
    with torch.no_grad():
        clean, after = network(images), network(attacked)
    (entry,) = run([network]).models
    pgd8 = entry.attacks["pgd8"]
    assert entry.srocc == pytest.approx(srocc(clean, SCORED.splits["test"].mos).item())
    assert pgd8.srocc["4"] == pytest.approx(srocc(after, SCORED.splits["test"].mos).item())
    assert pgd8.abs_gain["4"] == pytest.approx(abs_gain(clean, after, 2.0).item(), rel=1e-4)
    assert pgd8.abs_gain_auc == pytest.approx((pgd8.abs_gain["2"] + pgd8.abs_gain["4"]) / 2)
    assert 0 < entry.attacks["pgd1"].abs_gain_auc < pgd8.abs_gain_auc
    assert pgd8.max_linf["4"] == pytest.approx(4, abs=1e-3)
    assert entry.attacks["pgd1"].max_linf["4"] == pytest.approx(1, abs=1e-3)


def test_outcome_survives_json() -> None:
    outcome = run([model("a"), model("b", 1)], [SCORED, UNSCORED], baseline="a")
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_combined_figures_weigh_scored_data_twice() -> None:
    (entry,) = run([model("a")], [SCORED, UNSCORED]).models
    scored, unscored = entry.datasets[SCORED.spec], entry.datasets[UNSCORED.spec]
    gains = [part.attacks["pgd8"].abs_gain_auc for part in (scored, unscored)]
    assert entry.attacks["pgd8"].abs_gain_auc == pytest.approx((2 * gains[0] + gains[1]) / 3)
    assert (entry.srocc, entry.plcc_logistic) == (scored.srocc, scored.plcc_logistic)
    assert unscored.srocc is None
    assert unscored.attacks["pgd8"].srocc == {}
    assert entry.attacks["pgd8"].srocc == scored.attacks["pgd8"].srocc


def test_explicit_weights_are_used() -> None:
    settings = QUICK.changed(weights=(0.0, 1.0))
    (entry,) = run([model("a")], [SCORED, UNSCORED], settings=settings).models
    assert entry.attacks["pgd8"].abs_gain == entry.datasets[UNSCORED.spec].attacks["pgd8"].abs_gain
    assert entry.srocc is None


def test_identical_models_do_not_differ() -> None:
    outcome = run([model("a"), model("b")], [SCORED, UNSCORED], baseline=0)
    difference = outcome.models[1].difference_to_baseline
    for interval in (
        difference.srocc,
        difference.attacks["pgd8"].abs_gain_auc,
        difference.attacks["pgd8"].srocc["4"],
    ):
        assert interval.low <= 0 <= interval.high
        assert interval.value == 0
    assert outcome.models[1].srocc_drop == 0
    assert outcome.models[1].ratio_to_baseline.attacks["pgd8"].abs_gain_auc == pytest.approx(1)


def test_comparison_with_the_baseline() -> None:
    outcome = run([model("a"), model("b", 1)], baseline="a")
    base, other = outcome.models
    interval = other.difference_to_baseline.srocc
    assert other.srocc_drop == pytest.approx(base.srocc - other.srocc)
    assert interval.value == pytest.approx(other.srocc - base.srocc)
    assert interval.low < interval.value < interval.high
    assert other.ratio_to_baseline.attacks["pgd1"].abs_gain["2"] == pytest.approx(
        other.attacks["pgd1"].abs_gain["2"] / base.attacks["pgd1"].abs_gain["2"]
    )
    assert other.ratio_to_baseline.parameters == 1
    assert base.difference_to_baseline is None
    assert base.srocc_drop == 0


def test_ratio_is_null_where_the_attack_lowers_the_baseline() -> None:
    outcome = run([model("a"), model("b", 1)], baseline="a", settings=QUICK.changed(direction=-1))
    base, other = outcome.models
    assert base.attacks["pgd8"].abs_gain_auc < 0
    assert other.ratio_to_baseline.attacks["pgd8"].abs_gain_auc is None
    assert other.ratio_to_baseline.attacks["pgd8"].abs_gain_unsigned_auc > 0


def test_lower_is_better_turns_agreement_but_not_the_attack() -> None:
    (higher,) = run([model("a")]).models
    (lower,) = run([model("a", scale=ScoreScale(-1, 1, higher_is_better=False))]).models
    assert lower.srocc == pytest.approx(-higher.srocc)
    assert lower.plcc == pytest.approx(-higher.plcc)
    assert lower.attacks["pgd8"].srocc["4"] == pytest.approx(-higher.attacks["pgd8"].srocc["4"])
    assert lower.attacks["pgd8"].abs_gain == higher.attacks["pgd8"].abs_gain


def test_figures_do_not_depend_on_batch_size() -> None:
    one, many = (run([model("a")], settings=QUICK.changed(batch_size=size)).models[0] for size in (1, 14))
    for name in ("pgd1", "pgd8"):
        assert one.attacks[name].abs_gain["4"] == pytest.approx(many.attacks[name].abs_gain["4"], rel=1e-3)
    assert one.srocc == pytest.approx(many.srocc)


def test_same_seed_gives_the_same_outcome() -> None:
    first, second = (run([model("a"), model("b", 1)], [SCORED, UNSCORED], baseline=0) for _ in range(2))
    assert without_timing(first) == without_timing(second)


def test_missing_range_is_measured_on_training_images() -> None:
    bare = model("bare", scale=None)
    (entry,) = run([bare], [UNSCORED, SCORED]).models
    training = torch.stack([SCORED.splits["training"][i] for i in range(9)]).float() / 255
    with torch.no_grad():
        scores = bare.eval()(training)
    assert entry.scale.low == pytest.approx(scores.min().item())
    assert entry.scale.high == pytest.approx(scores.max().item())
    assert entry.scale.source == "measured on 9 training images of csv:toy.csv"
    assert bare.scale is None


def test_measuring_the_range_reports_progress() -> None:
    seen: list[Told] = []
    run([model("bare", scale=None)], settings=QUICK.changed(attacks=("pgd1",)), progress=told(seen))
    assert [done for task, done, _ in seen if task.endswith("csv:toy.csv (score range)")] == [4, 8, 9]


def test_missing_range_without_training_images_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"bare.*--score-range LOW,HIGH"):
        run([model("bare", scale=None)], [UNSCORED])


def test_constant_predictions_have_no_range() -> None:
    flat = model("flat")
    nn.init.zeros_(flat.network[3].weight)
    with pytest.raises(ModelLoadError, match=r"flat gives .* for all 9 training images"):
        measure_scale(flat, SCORED.splits["training"])


def test_score_that_is_not_finite_names_model_and_image() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scores = images.mean((1, 2, 3))
            return torch.where(scores == scores.max(), torch.nan, scores)

    broken = QualityModel(Broken(), Preprocessing(size=(12, 12)), scale=ScoreScale(0, 1), name="broken")
    with pytest.raises(ModelLoadError, match=r"broken .*not finite for image '2-\d\.png' \(clean\)"):
        run([broken])
    with pytest.raises(ModelLoadError, match=r"broken .*training image '1-\d\.png'"):
        measure_scale(broken, SCORED.splits["training"])


@dataclass(frozen=True)
class Cheat:
    """An attack that does not keep its budget, or leaves the range of pixels."""

    norm: ClassVar[Norm] = "linf"

    too_far: float
    epsilon: float = 4 / 255
    direction: Direction = 1

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:
        return images + self.too_far * self.epsilon * torch.ones_like(images)


def test_attack_that_cheats_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, too_far in (("far", 1.5), ("bright", 1.0)):
        entry = Entry(f"{__name__}:Cheat", "Cheats.", {"too_far": too_far})
        monkeypatch.setitem(ATTACKS.entries, name, entry)  # type: ignore[arg-type]
    with pytest.raises(ArmorError, match="far moved a pixel by 3/255, more than its budget of 2/255"):
        run([model("a")], settings=QUICK.changed(attacks=("far",)))
    with pytest.raises(ArmorError, match="bright left the pixel range"):
        run([model("a")], settings=QUICK.changed(attacks=("bright",)))


@dataclass(frozen=True)
class Halfway(PGD):
    """A user's own attack: PGD that goes half of its way back."""

    share: float = 0.5

    def __call__(self, score: ScoreFn, images: Tensor, generator: Generator) -> Tensor:
        return images + self.share * (super().__call__(score, images, generator) - images)


def test_own_attack_is_evaluated_and_reported_like_ours() -> None:
    found = evaluate(
        [model("a"), model("b", 1)], [SCORED], attacks=[Halfway(steps=8), "pgd8"], settings=QUICK, baseline=0
    )
    own, ours = (found.outcome.models[1].attacks[name] for name in ("Halfway:steps=8", "pgd8"))
    assert list(own.abs_gain) == ["2", "4"]
    assert 0 < own.abs_gain_auc < ours.abs_gain_auc
    assert own.max_linf["4"] == pytest.approx(2, abs=1e-3)
    assert found.outcome.models[1].difference_to_baseline.attacks["Halfway:steps=8"].abs_gain_auc.low is not None
    assert found.outcome.settings.attacks["Halfway:steps=8"]["share"] == 0.5
    assert len(found.table.where(attack="Halfway:steps=8")) == 2 * 2 * 14
    assert Outcome.from_json(found.outcome.to_json()) == found.outcome


def test_attack_of_a_user_s_file_is_named_by_its_word(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n@dataclass(frozen=True)\nclass Brighten:\n"
        '    norm: ClassVar[str] = "linf"\n    epsilon: float = 4 / 255\n    direction: int = 1\n'
        "    def __call__(self, score, images, generator):\n"
        "        return (images + self.direction * self.epsilon).clamp(0, 1)\n"
    )
    word = f"{file}:Brighten"
    (entry,) = run([model("a")], settings=QUICK.changed(attacks=(word, "pgd1"))).models
    assert entry.attacks[word].max_linf["4"] == pytest.approx(4, abs=1e-3)
    assert entry.worst_case is not None


@pytest.mark.parametrize("other", [lambda score, images, generator: images, 3, Preprocessing()])
def test_what_is_no_attack_is_refused(other: Any) -> None:
    with pytest.raises(UsageError, match="is no attack"):
        QUICK.changed(attacks=(other,))


def test_models_are_left_as_they_were() -> None:
    network = model("a").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    run([network])
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_table_has_a_row_per_model_dataset_image_attack_and_budget() -> None:
    table = evaluate([model("a"), model("b", 1)], [SCORED, UNSCORED], settings=QUICK).table
    assert len(table) == 2 * (14 + 6) * (1 + 2 * 2 + 1)
    rows = table.where(model="a", dataset=SCORED.spec)
    clean, attacked = rows.where(attack=""), rows.where(attack="pgd8", budget="4")
    for part in (clean, attacked):
        assert tuple(part["image"]) == SCORED.splits["test"].names
        assert part["mos"].tolist() == SCORED.splits["test"].mos.tolist()
    assert (attacked["score"] > clean["score"]).all()
    assert (attacked["linf"] <= 4.001 / 255).all()
    assert (attacked["l2"] <= attacked["linf"] * (3 * 12 * 12) ** 0.5 * 1.001).all()
    assert np.isnan(clean["linf"]).all()
    assert np.isnan(table.where(dataset=UNSCORED.spec)["mos"]).all()


def test_figures_are_those_of_the_table() -> None:
    found = evaluate([model("a")], [SCORED], settings=QUICK)
    rows, entry = found.table, found.outcome.models[0]
    clean = rows.where(attack="")["score"]
    for attack in ("pgd1", "pgd8"):
        part, figures = rows.where(attack=attack, budget="2"), entry.attacks[attack]
        assert figures.abs_gain["2"] == pytest.approx(float((part["score"] - clean).mean()) / 2)
        assert figures.psnr["2"] == pytest.approx(float(part["psnr"].mean()))
        assert figures.max_linf["2"] == float(part["linf"].max()) * 255


def test_limit_and_progress() -> None:
    seen: list[Told] = []
    settings = QUICK.changed(limit=5, attacks=("pgd1",))
    outcome = run([model("a")], [SCORED, UNSCORED], settings=settings, progress=told(seen))
    assert [entry.images for entry in outcome.data] == [5, 5]
    assert seen[1] == (f"evaluating a on {SCORED.spec}", 5, 5)
    assert [done for _, done, _ in seen] == [4, 5, 4, 5]


def test_cost_is_counted() -> None:
    (entry,) = run([model("a")], settings=QUICK.changed(attacks=("pgd1",), limit=4)).models
    assert entry.parameters == 3 * 9 * 6 + 6 + 12 + 6 * 9 + 1
    assert entry.flops == 2 * (3 * 9 * 6 * 10 * 10 + 6 * 9 * 8 * 8)
    assert entry.timing.seconds_per_image > 0


def test_one_image_leaves_correlations_undefined() -> None:
    settings = QUICK.changed(limit=1, attacks=("pgd1",))
    outcome = run([model("a"), model("b", 1)], baseline=0, settings=settings)
    assert outcome.models[1].srocc is None
    assert outcome.models[1].srocc_drop is None
    assert outcome.models[1].attacks["pgd1"].abs_gain["2"] > 0
    assert Outcome.from_json(outcome.to_json()) == outcome


class Attending(nn.Module):
    """A transformer layer on image rows, which some devices compute in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(2).transpose(1, 2)
        return self.layer(torch.cat([rows, rows, rows[..., :2]], -1)).mean((1, 2))


@pytest.mark.parametrize("backend", ["aoc", "aol", "cayley"])
def test_operations_are_counted_without_preparing_the_orthogonal_kernel(backend: str) -> None:
    block = RobustBlock(8, backend=backend, pool="none")
    network = nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))
    pixels, frequencies = 6 * 5, 6 * 3 - 2  # of the half spectrum, mirrored rows left out
    folded = 2 * 9 * 4 * 8 * pixels
    spectral = 8 * frequencies * 4 * 4 + 2 * 9 * 4 * 4 * pixels
    orthogonal = spectral if backend == "cayley" else folded
    by_hand = 2 * (3 * 8 * pixels + 8 * 4 * pixels + 8) + orthogonal
    counted = QualityModel(network, Preprocessing(size=None))
    assert count_flops(counted, torch.rand(3, 6, 5)) == by_hand
    with torch.no_grad():
        counted(torch.rand(4, 3, 6, 5))  # takes another way through the inverse
    assert count_flops(counted, torch.rand(3, 6, 5)) == by_hand


def test_attention_is_counted_however_it_is_computed() -> None:
    was_fused = torch.backends.mha.get_fastpath_enabled()
    tokens, width = 6 * 5, 8
    products = 4 * width * width + 2 * tokens * width + 2 * 16 * width  # per token: in and out, attention, feed-forward
    assert (
        count_flops(QualityModel(Attending(), Preprocessing(size=None)), torch.rand(3, 6, 5)) == 2 * tokens * products
    )
    assert torch.backends.mha.get_fastpath_enabled() == was_fused
