from typing import Any

import pytest
import torch
from torch import nn

from iqa_armor.attacks.pgd import L2PGD, PGD
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.errors import UsageError
from iqa_armor.evaluation.evaluation import evaluate
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.models.base import QualityModel

TWO_IMAGES = Dataset("toy", {"test": ImageSet(("a", "b"), lambda _: torch.zeros(3, 8, 8, dtype=torch.uint8))})


@pytest.mark.parametrize(
    ("models", "options", "match"),
    [
        ([], {}, "at least one model"),
        (["a"], {"baseline": "z"}, "'z' is not among the models: a"),
        (["a"], {"baseline": 1}, "1 is not among the models"),
        (["a"], {"settings": EvaluationSettings(weights=(1.0, 1.0))}, "as many weights"),
    ],
)
def test_contradictory_requests_are_refused(models: list[str], options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        evaluate([QualityModel(nn.Identity(), name=name) for name in models], [TWO_IMAGES], **options)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"epsilons": (4 / 255, 2 / 255)}, "ascend"),
        ({"epsilons": ()}, "ascend"),
        ({"epsilons": (2.0,)}, "ascend"),
        ({"attacks": ("pgd9x",)}, "unknown attack"),
        ({"attacks": ("pgd1", "pgd1")}, "differ"),
        ({"direction": 2}, "direction"),
        ({"batch_size": 0}, "batch_size"),
        ({"limit": 0}, "limit"),
        ({"resamples": 0}, "resamples"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        EvaluationSettings(**settings)


def test_outcome_states_settings_in_255ths() -> None:
    stated = EvaluationSettings(attacks=("pgd1", "pgd:steps=3,step_size=0.5")).report()
    assert stated.epsilons == (2, 4, 6, 8, 10)
    assert stated.attacks["pgd1"] == {"type": "PGD", "norm": "linf", "steps": 1, "step_size": 1.0}
    assert stated.attacks["pgd:steps=3,step_size=0.5"]["step_size"] == 0.5


def test_outcome_states_own_budgets() -> None:
    stated = EvaluationSettings(attacks=("pgd1", "l2pgd:epsilon=0.5", "madc:epsilon=6", "advcf")).report()
    assert stated.keys() == {
        "pgd1": ("2", "4", "6", "8", "10"),
        "l2pgd:epsilon=0.5": ("0.5",),
        "madc:epsilon=6": ("6",),
        "advcf": ("own",),
    }
    assert stated.attacks["l2pgd:epsilon=0.5"]["epsilon"] == 0.5
    assert stated.attacks["madc:epsilon=6"]["epsilon"] == 6
    assert "epsilon" not in stated.attacks["pgd1"] | stated.attacks["advcf"]


def test_attacks_given_as_values_are_named_by_class_and_settings() -> None:
    given = (PGD(), PGD(steps=3, step_size=0.5 / 255), L2PGD(), L2PGD(epsilon=0.5), "pgd8")
    settings = EvaluationSettings(attacks=given, direction=-1)
    names = ["PGD", "PGD:step_size=0.5,steps=3", "L2PGD", "L2PGD:epsilon=0.5", "pgd8"]
    assert list(settings.named_attacks()) == names
    assert settings.named_attacks()["L2PGD:epsilon=0.5"] == L2PGD(epsilon=0.5, direction=-1)
    assert settings.budgets()["L2PGD:epsilon=0.5"] == ("0.5",)
    with pytest.raises(UsageError, match="PGD twice"):
        EvaluationSettings(attacks=(PGD(), PGD(epsilon=1 / 255)))


def test_direction_is_handed_to_every_attack() -> None:
    assert [attack.direction for attack in EvaluationSettings(direction=-1).named_attacks().values()] == [-1, -1]
