"""What a hardening gave."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iqa_armor.artifact.storage import save_artifact
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.provenance import without_times
from iqa_armor.pruning.prune import Pruned
from iqa_armor.recipe import Recipe
from iqa_armor.surgery.edits import InstalledBlock
from iqa_armor.training.history import FitHistory

WORSE = 0.01  # of SROCC; less is not worth a warning


@dataclass(frozen=True, repr=False)
class Hardened:
    """A hardened model, in eval mode on the CPU and named NAME-hardened, and what was done to it.

    Args:
        srocc: On the held-out tenth of the training images after each step, in [-1, 1].
        provenance: Source, data, versions and the rest, as stored in the file.
        others: Of a frontier, the models that were not chosen, by the share of the fine-tuned end in [0, 1].
    """

    model: QualityModel
    recipe: Recipe
    blocks: tuple[InstalledBlock, ...]
    pruned: Pruned | None
    fit: FitHistory
    srocc: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)
    others: dict[float, QualityModel] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Write the model as one self-contained safetensors file, whole or not at all."""
        save_artifact(self.model, path, recipe=self.recipe.model_dump(), provenance=without_times(self.provenance))

    def __repr__(self) -> str:
        steps = "".join(f"\n  {step:16} held-out SROCC {value:.3f}" for step, value in self.srocc.items())
        return f"Hardened {self.model!r}{steps}"

    @property
    def warnings(self) -> list[str]:
        """What speaks against using the result."""
        before, after = self.srocc["original"], self.srocc["result"]
        if not self.fit.epochs or after >= before - WORSE:
            return []
        return [
            f"the result ranks images worse than the original: SROCC {after:.3f} against {before:.3f} on held-out "
            "training images; more --epochs, another --learning-rate or a smaller --prune may help"
        ]

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        scale = self.model.scale
        return {
            "name": self.model.name,
            "recipe": self.recipe.model_dump(),
            "score_range": None if scale is None else [scale.low, scale.high],
            "warnings": self.warnings,
            **self.provenance,
        }
