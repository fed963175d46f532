"""Structured pruning of traced networks, and the criteria that say which channels go."""

from typing import TYPE_CHECKING

from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.pruning.criteria import Criterion

CRITERIA: "Registry[Criterion]" = Registry(
    "criterion",
    {
        "taylor": Entry("iqa_armor.pruning.criteria:Taylor", "least effect on the scores, to first order", {}),
        "l1": Entry("iqa_armor.pruning.criteria:Magnitude", "smallest weights, by their absolute values", {"power": 1}),
        "l2": Entry("iqa_armor.pruning.criteria:Magnitude", "smallest weights, by their squares", {"power": 2}),
        "pls": Entry("iqa_armor.pruning.pls:Vip", "least said of the labels by partial least squares", {}),
        "distilled-pls": Entry("iqa_armor.pruning.pls:DistilledVip", "as pls, ranked across layers", {}),
        "hsic": Entry("iqa_armor.pruning.pls:Hsic", "least dependence on the labels, linear or not", {}),
        "random": Entry("iqa_armor.pruning.criteria:Random", "drawn at random: the control", {}),
    },
    group="iqa_armor.criteria",
    accepts="iqa_armor.pruning.criteria:accepted",
)
__getattr__ = CRITERIA.lazy_attribute
