"""An attacked image beside its original, as a report shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One attacked image beside its original, and mid-grey plus 20 times the change, as files that browsers show.

    Scores are in model units, the gain in score ranges of the model; the other names are those of the outcome.
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
