"""Models behind defenses: what unaware and adaptive attacks find, and what it is measured by."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import contrast_images, small_network
from torch import Generator, Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.attacks.pgd import PGD
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.defenses.base import Defended, read_chain
from iqa_armor.defenses.defended import Purified
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.evaluation import Evaluation, evaluate
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.metrics.fidelity import quality_score
from iqa_armor.metrics.robustness import gain_score
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.pipeline.load import defended_model, defended_models
from iqa_armor.progress import Progress, silent
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.table import Table

SCALE = ScoreScale(-1, 1)
SETTINGS = EvaluationSettings(
    attacks=("pgd3",), epsilons=(2 / 255, 4 / 255), ranking_epsilons=(1 / 255,), batch_size=4, resamples=20, eot=2
)
COUNT = 6
UNAWARE = " (unaware attack)"


def network(seed: int = 0, scale: ScoreScale | None = SCALE) -> QualityModel:
    preprocessing = Preprocessing(size=(16, 20), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return QualityModel(small_network(seed), preprocessing, scale=scale, name="small").eval()


def images(size: tuple[int, int] = (16, 20)) -> Dataset:
    pixels, mos = contrast_images(COUNT, size=size)
    names = tuple(f"{i:02d}.png" for i in range(COUNT))
    whole = ImageSet(names, lambda index: pixels[index], mos)
    return Dataset("csv:six.csv", {"training": whole.select(range(6)), "test": whole})


def batches(size: int = SETTINGS.batch_size) -> list[Tensor]:
    test = images().splits["test"]
    return list((torch.stack([test[i] for i in range(COUNT)]).float() / 255).split(size))


def run(
    purify: Sequence[str] = (), smooth: Sequence[str] = (), *, model: QualityModel | None = None, **changes: Any
) -> Evaluation:
    settings = SETTINGS.changed(**changes)
    return evaluate(defended_models([model or network()], purify, smooth), [images()], settings=settings)


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return the JSON of an outcome without what the clock decides."""
    plain: dict[str, Any] = json.loads(outcome.to_json())
    for entry in plain["models"]:
        del entry["timing"]
    return plain


def entries(outcome: Outcome) -> dict[str, ModelEntry]:
    return {entry.name.removeprefix("small + "): entry for entry in outcome.models}


def scores(table: Table, attack: str = "", budget: str = "", *, of: str = "score") -> Tensor:
    return torch.from_numpy(table.where(attack=attack, budget=budget)[of])


def seeded() -> Generator:
    return Generator().manual_seed(0)


@dataclass(frozen=True)
class Stairs:
    """A purifier that rounds; its gradient is zero, and it may claim that this is one."""

    is_differentiable: bool = False
    is_random: ClassVar[bool] = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return (images * 51).round() / 51


def test_unaware_attack_is_one_on_the_bare_model_shown_to_the_defense() -> None:
    (word,) = chain = read_chain("blur")
    found = run([word]).table.where(model=f"small + {word}{UNAWARE}")
    model, clean, attacked = network(), [], []
    with frozen(model):
        for part in batches():
            fooled = PGD(epsilon=4 / 255, steps=3)(model, part, seeded())
            with torch.no_grad():
                clean.append(model(chain[word](part, seeded())))
                attacked.append(model(chain[word](fooled, seeded())))
    assert torch.equal(scores(found), torch.cat(clean).double())
    assert torch.equal(scores(found, "pgd3", "4"), torch.cat(attacked).double())


def test_adaptive_attack_is_one_through_the_defense() -> None:
    (word,) = chain = read_chain("blur")
    found = run([word]).table.where(model=f"small + {word}")
    model = network()
    with frozen(model):
        attacked = [
            model(chain[word](PGD(epsilon=4 / 255, steps=3)(through, part, seeded()), seeded()))
            for through in [lambda x: model(chain[word](x, seeded()))]
            for part in batches()
        ]
    assert torch.equal(scores(found, "pgd3", "4"), torch.cat(attacked).double())


@pytest.mark.parametrize("word", ["blur", "resize", "noise", "jpeg", "quantize:levels=8"])
def test_attack_that_knows_the_defense_does_more(word: str) -> None:
    found = entries(run([word], attacks=("pgd8",)).outcome)
    adaptive, unaware = found[word].attacks["pgd8"], found[word + UNAWARE].attacks["pgd8"]
    assert adaptive.abs_gain["4"] > unaware.abs_gain["4"] > 0
    assert found[word].srocc == pytest.approx(found[word + UNAWARE].srocc, abs=1e-12)


@pytest.mark.parametrize("word", ["jpeg", "quantize:levels=8"])
def test_missing_gradient_is_no_protection(word: str) -> None:
    entry, bare = (entries(run([word]).outcome)[name] for name in (word, "small"))
    model = Purified(network(), read_chain(word))
    with frozen(model):
        stuck = [
            PGD(epsilon=4 / 255, steps=3)(lambda x: model(x) + 0 * x.sum((1, 2, 3)), p, seeded()) for p in batches()
        ]
        before, after = (torch.cat([model(part) for part in parts]) for parts in (batches(), stuck))
    without = float((after - before).mean()) / SCALE.width
    gain = entry.attacks["pgd3"].abs_gain["4"]
    assert without == 0
    assert gain > 0.5 * bare.attacks["pgd3"].abs_gain["4"] > 0


def test_checks_see_through_a_purifier_that_hides_its_gradient() -> None:
    honest, hiding = (
        Purified(network(), {word: Stairs(is_differentiable=is_lie)})
        for word, is_lie in (("stairs", False), ("liar", True))
    )
    settings = SETTINGS.changed(checks=True, check_images=3)
    found = entries(evaluate([honest, hiding], [images()], settings=settings).outcome)
    assert found["liar"].attacks["pgd3"].abs_gain["4"] < 0.1 * found["stairs"].attacks["pgd3"].abs_gain["4"]
    assert "failed" not in {check.status for check in found["stairs"].checks}
    assert "failed" in {check.status for check in found["liar"].checks}


def test_checks_are_run_where_the_attack_knows_the_defense() -> None:
    found = entries(run(["blur"], checks=True, check_images=2).outcome)
    assert found["small"].checks
    assert found["blur"].checks
    assert found["blur" + UNAWARE].checks == ()


def test_entries_say_what_stands_around_which_model() -> None:
    outcome = run(["jpeg+flip"], ["ms:samples=2"]).outcome
    said = [(entry.defense, entry.defends, entry.threat) for entry in outcome.models]
    both = [("jpeg+flip", "small"), ("ms:samples=2", "small")]
    assert said == [("", "", None), *((*each, threat) for threat in ("adaptive", "bare") for each in both)]
    assert outcome.settings.eot == 2


@pytest.mark.parametrize("threat", ["", UNAWARE])
def test_quality_and_gain_score_equal_those_by_hand(threat: str) -> None:
    (word,) = chain = read_chain("resize")
    found = run([word])
    entry, rows = entries(found.outcome)[word + threat], found.table.where(model=f"small + {word}{threat}")
    undefended = scores(rows, of="undefended")
    model = network()
    through = model if threat else Purified(model, chain)
    normalized = [(s - SCALE.low) / SCALE.width for s in (undefended, scores(rows), scores(rows, "pgd3", "4"))]
    with frozen(through):
        fooled = [PGD(epsilon=4 / 255, steps=3)(through, part, seeded()) for part in batches()]
        bare = torch.cat([model(part) for part in batches()])
        quality = [quality_score(p, chain[word](f, seeded())) for p, f in zip(batches(), fooled, strict=True)]
        clean_quality = [quality_score(part, chain[word](part, seeded())) for part in batches()]
    assert torch.equal(undefended, bare.double())
    assert entry.attacks["pgd3"].quality["4"] == pytest.approx(float(torch.cat(quality).mean()), rel=1e-6)
    assert entry.clean_quality == pytest.approx(float(torch.cat(clean_quality).mean()), rel=1e-6)
    assert entry.clean_gain_score == pytest.approx(float(gain_score(normalized[0], normalized[1]).mean()))
    assert entry.attacks["pgd3"].gain_score["4"] == pytest.approx(
        float(gain_score(normalized[0], normalized[2]).mean())
    )


def test_smoothed_scores_have_no_quality() -> None:
    entry = entries(run((), ["ms:samples=2"]).outcome)["ms:samples=2"]
    assert (entry.clean_quality, entry.attacks["pgd3"].quality, entry.attacks["pgd3"].gain_score) == (None, {}, {})


def test_defended_model_has_the_range_of_the_model_behind() -> None:
    told: list[str] = []
    models = defended_models([network(scale=None)], ["blur"], ["ms:samples=2"])
    outcome = evaluate(models, [images()], settings=SETTINGS, progress=lambda task, *_: told.append(task)).outcome
    assert len({entry.scale for entry in outcome.models}) == 1
    assert {task for task in told if "score range" in task} == {"evaluating small on csv:six.csv (score range)"}


def test_outcome_of_defenses_survives_json() -> None:
    outcome = run(["jpeg+flip"], ["ms:samples=2"]).outcome
    assert Outcome.from_json(outcome.to_json()) == outcome


RANDOM: dict[str, Any] = {"purify": ["noise+flip"], "smooth": ["ms:samples=3"], "epsilons": (4 / 255,)}


def test_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    first, again, other = (run(**RANDOM, seed=seed).outcome for seed in (0, 0, 1))
    assert figures(first) == figures(again)
    changed = [a.attacks["pgd3"] != b.attacks["pgd3"] for a, b in zip(first.models, other.models, strict=True)]
    assert changed == [False, True, True, True, True]


def test_draws_depend_on_no_other_model_in_the_evaluation() -> None:
    alone = entries(run(["noise"]).outcome)
    among = entries(run(["flip", "noise"], ["ms:samples=2"]).outcome)
    for name in ("noise", "noise" + UNAWARE):
        assert alone[name].attacks == among[name].attacks


def test_random_defense_is_attacked_alike_whichever_attacks_stand_beside(tmp_path: Path) -> None:
    def rows(*attacks: str, folder: str | None = None, progress: Progress = silent) -> Table:
        models = defended_models([network()], ["noise+flip"], ["ms:samples=2"])
        settings = SETTINGS.changed(attacks=attacks, epsilons=RANDOM["epsilons"])
        output = None if folder is None else tmp_path / folder
        return evaluate(models, [images()], settings=settings, output=output, progress=progress).table

    def stop(task: str, done: int, total: int, detail: str = "") -> None:
        if "flip on" in task and done >= 4:
            raise Interrupted

    alone, many = rows("pgd3"), ("uap:passes=1", "pgd1", "apgd:steps=2", "pgd3", "pgd:steps=3")
    with pytest.raises(Interrupted):
        rows(*many, folder="cut", progress=stop)
    others = {
        "many": rows(*many),
        "reversed": rows(*many[::-1]),
        "resumed": rows(*many, folder="cut"),
        "longer": rows("pgd5", "pgd3"),
    }
    for beside in others.values():
        for attack in ("", "pgd3"):
            assert np.array_equal(beside.where(attack=attack)["score"], alone.where(attack=attack)["score"])
    same = (others["many"].where(attack=name)["linf"] for name in ("pgd3", "pgd:steps=3"))
    assert np.array_equal(*same)  # one word for the other finds the same images


def test_deterministic_defense_does_not_depend_on_the_batches() -> None:
    one, many = (entries(run(["median"], batch_size=size).outcome)["median"] for size in (1, COUNT))
    assert one.attacks["pgd3"].abs_gain["4"] == pytest.approx(many.attacks["pgd3"].abs_gain["4"], rel=1e-3)
    assert one.clean_quality == pytest.approx(many.clean_quality)


def test_number_of_averaged_draws_changes_what_is_found_and_is_recorded() -> None:
    few, more = (run(["noise:sigma=0.2"], eot=eot).outcome for eot in (1, 6))
    assert (few.settings.eot, more.settings.eot) == (1, 6)
    one, six = (entries(outcome) for outcome in (few, more))
    word = "noise:sigma=0.2"
    assert one[word].attacks["pgd3"].abs_gain["4"] != six[word].attacks["pgd3"].abs_gain["4"]
    assert one[word + UNAWARE].attacks == six[word + UNAWARE].attacks


class Interrupted(Exception):
    """Stands for a process that is killed."""


def test_interrupted_evaluation_goes_on_to_the_same_outcome(tmp_path: Path) -> None:
    def evaluation(folder: Path, progress: Progress = silent) -> Outcome:
        models = defended_models([network()], RANDOM["purify"], RANDOM["smooth"])
        settings = SETTINGS.changed(epsilons=RANDOM["epsilons"])
        return evaluate(models, [images()], settings=settings, output=folder, progress=progress).outcome

    def stop(task: str, done: int, total: int, detail: str = "") -> None:
        if "flip on" in task and done >= 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluation(tmp_path / "cut", stop)
    resumed = evaluation(tmp_path / "cut")
    assert figures(resumed) == figures(evaluation(tmp_path / "whole")) == figures(run(**RANDOM).outcome)
    assert len(list((tmp_path / "cut").glob("*.jsonl"))) == 5  # parts of both threats are told apart


def test_score_of_an_image_does_not_depend_on_calls_before() -> None:
    model = defended_model(network(), ["noise", "flip"], "ms:samples=3")
    assert isinstance(model, Defended)
    first, *_ = batches()
    with torch.no_grad():
        model.reseed(5)
        once, again = model(first), model(first)
        model.reseed(5)
        assert torch.equal(model(first), once)
    assert not torch.equal(once, again)


def test_every_seed_and_call_draws_otherwise() -> None:
    model = defended_model(network(), ["noise"])
    assert isinstance(model, Defended)
    drawn = set()
    for seed in (0, 1, 2, 2**31, 2**32, 2**55 + 1):
        model.reseed(seed)
        drawn |= {float(torch.rand(1, generator=model.next_generator(torch.zeros(1)))) for _ in range(4)}
    assert len(drawn) == 24


def test_repeated_purifiers_are_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        defended_model(network(), ["flip", "flip"])
    for repeated in ({"purify": ["flip", "flip"]}, {"smooth": ["ms:samples=2", "ms:samples=2"]}):
        with pytest.raises(UsageError, match="repeated"):
            run(**repeated)
