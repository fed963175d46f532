"""Orthogonal convolutions, the blocks made of them, and measured Lipschitz constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iqa_armor.registry import Entry, Registry

if TYPE_CHECKING:
    from iqa_armor.ortho.layer import OrthogonalConv2d


BACKENDS: Registry[type[OrthogonalConv2d]] = Registry(
    "backend",
    {
        "cayley": Entry("iqa_armor.ortho.cayley:CayleyConv2d", "Cayley transform at every frequency; keeps norms"),
        "aoc": Entry("iqa_armor.ortho.aoc:AocConv2d", "one kernel, composed of orthogonal factors; keeps norms"),
        "aol": Entry("iqa_armor.ortho.aol:AolConv2d", "one kernel, rescaled; never increases norms"),
    },
    group="iqa_armor.backends",
    accepts="iqa_armor.ortho.layer:accepted",
)
__getattr__ = BACKENDS.lazy_attribute
