"""The scored training images that pruning measures importance on."""

from collections.abc import Iterator

from torch import Tensor

from iqa_armor.data.prepared import batches
from iqa_armor.errors import DataError
from iqa_armor.models.base import QualityModel
from iqa_armor.pruning import CRITERIA
from iqa_armor.recipe import Recipe
from iqa_armor.training.images import TrainingImages

SAMPLES = 200  # [RA] Section 3
FEWEST = 10  # ours
BATCH = 8
SAMPLES_TO_READ = SAMPLES * 5 // 4  # a tenth, more or less, is held out


def takes_samples(recipe: Recipe) -> bool:
    """Return whether pruning by this recipe looks at scored images."""
    return recipe.prune > 0 and CRITERIA.read(recipe.criterion).takes_samples


def check_samples(mos: Tensor, recipe: Recipe) -> None:
    """Raise a DataError for scores (N,) that say nothing on channels, where pruning looks at them."""
    if not takes_samples(recipe):
        return
    criterion, way_out = recipe.criterion, "name more data, or pass --criterion taylor"
    if len(mos) < FEWEST:
        raise DataError(
            f"--criterion {criterion} takes at least {FEWEST} scored training images beside those held out, and there "
            f"are {len(mos)}; {way_out}"
        )
    if bool((mos == mos[0]).all()):
        raise DataError(f"--criterion {criterion} compares scores, but all are {float(mos[0]):g}; {way_out}")


def labelled_batches(images: TrainingImages, model: QualityModel) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield up to 200 normalised images (N, 3, H, W) that are fitted to, evenly spread, with scores (N,); N ≤ 8.

    Higher scores mean better quality, whatever the model's own direction; no criterion asks for it.
    """
    total, count = len(images.fitted), min(SAMPLES, len(images.fitted))
    chosen = images.fitted.select([i * total // count for i in range(count)])
    for batch, scores, _ in batches(chosen, BATCH):
        yield model.normalize(batch.to(model.mean.device)), scores
