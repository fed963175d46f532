"""Feature smoothing: noise behind the backbone instead of on the image."""

from __future__ import annotations

from iqa_armor.defenses.features.jacobian import Found, largest_singular_value
from iqa_armor.defenses.features.product import ProductBound, product_bound
from iqa_armor.defenses.features.reference import BoundReferenceSmoother
from iqa_armor.defenses.features.sampling import FeatureCertificate
from iqa_armor.defenses.features.smoothing import BoundFeatureSmoother, FeatureSmoothing
from iqa_armor.defenses.order import median_indices

__all__ = [
    "BoundFeatureSmoother",
    "BoundReferenceSmoother",
    "FeatureCertificate",
    "FeatureSmoothing",
    "Found",
    "ProductBound",
    "largest_singular_value",
    "median_indices",
    "product_bound",
]
