"""Evaluations that learn, stop and go on, or are shared among processes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import contrast_images, small_network
from numpy.typing import NDArray
from torch import Tensor

from iqa_armor.attacks.learned import UAP
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.errors import DataError, OutputError
from iqa_armor.evaluation.evaluation import evaluate
from iqa_armor.evaluation.journal import Journal, Shard
from iqa_armor.evaluation.pictures import take_pictures
from iqa_armor.evaluation.run import Run
from iqa_armor.evaluation.scoring import score_datasets
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.models.base import Preprocessing, QualityModel, ScoreScale
from iqa_armor.pipeline.load import defended_models
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.table import Table

SETTINGS = EvaluationSettings(
    attacks=("pgd1", "pgd8", "square:queries=5", "stadv:iterations=1"),
    epsilons=(2 / 255, 4 / 255),
    ranking_epsilons=(1 / 255,),
    batch_size=4,
    resamples=50,
)


def network(seed: int = 0) -> QualityModel:
    preprocessing = Preprocessing(size=(16, 20), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return QualityModel(small_network(seed), preprocessing, scale=ScoreScale(-1, 1), name="small").eval()


def images(read: Callable[[int], Tensor] | None = None) -> Dataset:
    pixels, mos = contrast_images(14, size=(16, 20))
    names = tuple(f"{i:02d}.png" for i in range(14))
    return Dataset("csv:fourteen.csv", {"test": ImageSet(names, read or (lambda index: pixels[index]), mos)})


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return the JSON of an outcome without what the clock decides."""
    plain = json.loads(outcome.to_json())
    for entry in plain["models"]:
        del entry["timing"]
        if entry["ratio_to_baseline"]:
            del entry["ratio_to_baseline"]["timing"]
    return plain


class Interrupted(Exception):
    """Stands for a process that is killed."""


def run_until(images_done: int, folder: Path, models: Sequence[QualityModel]) -> None:
    def stop(task: str, done: int, total: int, detail: str = "") -> None:
        if done >= images_done:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluate(models, [images()], settings=SETTINGS, output=folder, baseline=0, progress=stop)


@pytest.mark.parametrize("cut", [0, 37])
def test_interrupted_evaluation_goes_on_to_the_same_outcome(tmp_path: Path, cut: int) -> None:
    models = [network(0), network(1)]
    models[1].name = "other"
    whole = evaluate(models, [images()], settings=SETTINGS, baseline=0)
    run_until(8, tmp_path, models)
    (kept,) = tmp_path.glob("*.jsonl")
    assert len(kept.read_text().splitlines()) == 2
    if cut:  # killed while it wrote
        kept.write_bytes(kept.read_bytes()[:-cut])
    resumed = evaluate(models, [images()], settings=SETTINGS, output=tmp_path, baseline=0)
    assert figures(resumed.outcome) == figures(whole.outcome)
    again = evaluate(models, [images()], settings=SETTINGS, output=tmp_path, baseline=0)
    assert figures(again.outcome) == figures(whole.outcome)
    assert again.outcome.models[0].timing == resumed.outcome.models[0].timing


def test_results_of_other_data_or_settings_are_not_mixed(tmp_path: Path) -> None:
    run_until(4, tmp_path, [network()])
    other = images()
    renamed = replace(other.splits["test"], names=tuple(f"{i}.jpg" for i in range(14)))
    runs: dict[str, tuple[QualityModel, Dataset, EvaluationSettings]] = {
        r"data.csv:fourteen\.csv\.fingerprint": (network(), Dataset(other.spec, {"test": renamed}), SETTINGS),
        "settings.batch_size": (network(), images(), SETTINGS.changed(batch_size=5)),
        "settings.attacks": (network(), images(), SETTINGS.changed(attacks=("pgd1",))),
        "settings.seed": (network(), images(), SETTINGS.changed(seed=1)),
    }
    for what, (model, dataset, settings) in runs.items():
        with pytest.raises(DataError, match=rf"results of another evaluation \({what}.* differs\)"):
            evaluate([model], [dataset], settings=settings, output=tmp_path)


def test_models_can_be_added_to_an_evaluation(tmp_path: Path) -> None:
    first, other = network(0), network(1)
    other.name = "other"
    evaluate([first], [images()], settings=SETTINGS, output=tmp_path)
    (kept,) = tmp_path.glob("*.jsonl")
    before = kept.read_bytes()
    both = evaluate([other, first], [images()], settings=SETTINGS, output=tmp_path, baseline="small")
    assert kept.read_bytes() == before
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert figures(both.outcome) == figures(evaluate([other, first], [images()], settings=SETTINGS, baseline=1).outcome)


def test_images_that_changed_meanwhile_are_refused(tmp_path: Path) -> None:
    run_until(4, tmp_path, [network()])
    pixels = contrast_images(14, size=(16, 20))[0]
    pixels[2] += 1
    with pytest.raises(DataError, match=r"images from '00\.png' on are not those"):
        evaluate([network()], [images(lambda index: pixels[index])], settings=SETTINGS, output=tmp_path)


def test_damaged_results_are_named(tmp_path: Path) -> None:
    run_until(4, tmp_path, [network()])
    (kept,) = tmp_path.glob("*.jsonl")
    kept.write_text('{"number": 0}\n')
    with pytest.raises(DataError, match=f"{kept.name} is damaged"):
        evaluate([network()], [images()], settings=SETTINGS, output=tmp_path)
    with pytest.raises(OutputError, match="cannot keep results in"):
        evaluate([network()], [images()], settings=SETTINGS, output=kept / "kept")


def scores(table: Table, attack: str, budget: str = "4") -> NDArray[np.float64]:
    return table.where(attack=attack, budget=budget)["score"]


def equal(left: Table, right: Table, *names: str) -> bool:
    """Return whether columns of two tables have the same bits."""
    return all(np.array_equal(left[n], right[n], equal_nan=left[n].dtype == np.float64) for n in names or left.columns)


MEASURED = ("image", "attack", "budget", "mos", "score", "linf", "l2", "psnr", "quality", "undefended")


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    model, dataset, device = network(), images(), torch.device("cpu")
    alone = score_datasets(Run([dataset], SETTINGS, device), model)[dataset.spec]

    class Lonely(Shard):
        def gather(self, mine: Any) -> Any:
            return mine

    journals = [Journal(tmp_path, shard=Lonely(rank, 2)) for rank in range(2)]
    for journal in journals:  # one after the other here, so the second finds the first's blocks
        shared = score_datasets(Run([dataset], SETTINGS, device, journal), model)[dataset.spec]
    assert [len(path.read_text().splitlines()) for path in sorted(tmp_path.glob("*.jsonl"))] == [2, 2]
    assert equal(shared, alone, *MEASURED)


def test_worst_case_takes_the_farthest_of_the_swept_attacks() -> None:
    evaluation = evaluate([network()], [images()], settings=SETTINGS)
    table = evaluation.table
    swept = np.stack([scores(table, name) for name in ("pgd1", "pgd8", "square:queries=5")])
    expected = (swept.max(0) - scores(table, "", "")).mean() / 2
    (entry,) = evaluation.outcome.models
    assert entry.worst_case is not None
    assert entry.worst_case.abs_gain["4"] == pytest.approx(float(expected))
    assert entry.worst_case.abs_gain_auc == pytest.approx(
        sum(map(float, filter(None, entry.worst_case.abs_gain.values()))) / 2
    )
    down = evaluate([network()], [images()], settings=SETTINGS.changed(direction=-1)).outcome.models[0]
    assert down.worst_case is not None
    assert down.worst_case.abs_gain["4"] <= min(down.attacks[name].abs_gain["4"] for name in ("pgd1", "pgd8"))
    lone = evaluate([network()], [images()], settings=SETTINGS.changed(attacks=("pgd1", "stadv"))).outcome.models[0]
    assert lone.worst_case is None


def test_attacks_with_a_budget_of_their_own_are_run_once() -> None:
    settings = SETTINGS.changed(attacks=("pgd1", "l2pgd", "advcf:steps=2"))
    (entry,) = evaluate([network()], [images()], settings=settings).outcome.models
    assert list(entry.attacks["l2pgd"].abs_gain) == ["1"]
    assert list(entry.attacks["advcf:steps=2"].abs_gain) == ["own"]
    for figures in entry.attacks.values():
        assert figures.abs_gain_auc is not None
        assert figures.abs_gain_auc > 0
    assert entry.attacks["l2pgd"].abs_gain_auc == entry.attacks["l2pgd"].abs_gain["1"]


def test_what_is_drawn_does_not_depend_on_the_other_attacks() -> None:
    many, alone = (
        evaluate([network()], [images()], settings=SETTINGS.changed(attacks=attacks)).table
        for attacks in (SETTINGS.attacks, ("square:queries=5",))
    )
    assert all(equal(many.where(attack=a), alone.where(attack=a), *MEASURED) for a in ("", "square:queries=5"))


def test_journal_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text('{"schema": "iqa-armor/journal/1", "data": {}}')
    with pytest.raises(DataError, match=r"another version of iqa-armor .*name another folder"):
        evaluate([network()], [images()], settings=SETTINGS, output=tmp_path)


@pytest.mark.parametrize("name", [".identity.json.unfinished-old", ".unfinished-old", ".uap.pt.unfinished-old"])
def test_what_a_killed_evaluation_left_is_removed_by_the_next(name: str, tmp_path: Path) -> None:
    evaluate([network()], [images()], settings=SETTINGS, output=tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "identity.json").write_text("{")
    evaluate([network()], [images()], settings=SETTINGS, output=tmp_path)
    assert not (tmp_path / name).exists()


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the budget of every pattern that is learned."""
    budgets: list[float] = []
    fit = UAP.fit

    def noted(attack: UAP, *arguments: Any) -> Any:
        budgets.append(round(attack.epsilon * 255))
        return fit(attack, *arguments)

    monkeypatch.setattr(UAP, "fit", noted)
    return budgets


def test_fitted_attacks_are_learned_once_for_figures_and_pictures(learned: list[float], tmp_path: Path) -> None:
    settings = SETTINGS.changed(attacks=("uap:passes=1", "pgd1"))
    found = evaluate([network()], [images()], settings=settings, output=tmp_path)
    pictures = take_pictures(found, attack="uap:passes=1", budget="4")
    assert len(pictures) == 3
    assert learned == [2, 4]
    # Of an evaluation whose rows are all on the disk, only the attack that is shown is learned.
    again = evaluate([network()], [images()], settings=settings, output=tmp_path)
    assert learned == [2, 4]
    assert take_pictures(again, attack="uap:passes=1", budget="4") == pictures
    assert learned == [2, 4, 2, 4]


def test_attacks_unaware_of_defenses_are_learned_once_for_all_of_them(learned: list[float]) -> None:
    models = defended_models([network()], ["blur", "flip"], [], threats=["bare"])
    evaluate(models, [images()], settings=SETTINGS.changed(attacks=("uap:passes=1",)))
    assert len(models) == 3
    assert learned == [2, 4]


def test_pictures_are_those_that_the_attack_moved_most() -> None:
    found = evaluate([network()], [images()], settings=SETTINGS)
    rows = found.table
    moved = scores(rows, "pgd8") - scores(rows, "", "")
    shown = take_pictures(found, attack="pgd8", budget="4", each=2)
    assert [picture.name for picture in shown] == rows.where(attack="")["image"][np.argsort(-moved)[:2]].tolist()
    assert shown[0].gain == pytest.approx(moved.max() / 2)
    assert shown[0].clean[:4] == b"RIFF"
