"""An attacked image beside its original, as a report shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One attacked image beside its original, as image files that browsers show (PNG, WebP or JPEG).

    Args:
        model: Name of the model.
        dataset: Spec of the dataset.
        attack: Name of the attack.
        budget: Key of its budget, as in the outcome.
        name: Name of the image.
        clean_score: Score of the clean image, in model units.
        attacked_score: Score of the attacked image.
        gain: Change in score ranges of the model.
        clean: The clean image.
        attacked: The attacked image.
        difference: Mid-grey plus 20 times the change.
    """

    model: str
    dataset: str
    attack: str
    budget: str
    name: str
    clean_score: float
    attacked_score: float
    gain: float
    clean: bytes
    attacked: bytes
    difference: bytes
