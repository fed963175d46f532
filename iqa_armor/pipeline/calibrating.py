"""Take from training images what a smoother needs to know of a model."""

from __future__ import annotations

from collections.abc import Mapping

from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import Dataset, ImageSet
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.defenses.base import Smoother
from iqa_armor.defenses.smoothing.feature_smoothing import FeatureSmoothing
from iqa_armor.errors import UsageError
from iqa_armor.pipeline.certified import Subject
from iqa_armor.progress import Progress

CALIBRATION_IMAGES = 32
BATCH = 8


def calibrated(
    smoothers: Mapping[str, Smoother], subject: Subject, dataset: Dataset, *, progress: Progress
) -> dict[str, Smoother]:
    """Return the smoothers, those in calibrated mode with the largest Jacobian of clean training images.

    Args:
        smoothers: Smoothers by their words.
        subject: The model.
        dataset: Where training images come from; 32 of them, evenly spread, are used (ours).
        progress: Receiver of progress.

    Raises:
        UsageError: If one has to be calibrated, and there is no training image.
    """
    return {
        word: _calibrate(smoother, subject, dataset.splits.get("training"), progress)
        if isinstance(smoother, FeatureSmoothing) and smoother.mode == "calibrated" and not smoother.jacobian
        else smoother
        for word, smoother in smoothers.items()
    }


def _calibrate(
    smoother: FeatureSmoothing, subject: Subject, training: ImageSet | None, progress: Progress
) -> FeatureSmoothing:
    if training is None or not len(training):
        raise UsageError(
            "mode=calibrated measures the Jacobian on training images, and there are none here; name a dataset with a "
            "training split by --data, or give jacobian=NUMBER"
        )
    images = training.limit(CALIBRATION_IMAGES)
    task, largest = f"calibrating {subject.model.name}", smoother
    prepared = PreparedImages(images, subject.prepare)
    with frozen(subject.model):
        for pixels, _, _ in batches(prepared, BATCH):
            found = smoother.calibrate(subject.model, pixels.to(subject.device), batch_size=BATCH)
            largest = max(largest, found, key=lambda each: each.jacobian)
        progress(task, 1, 1, f"s = {largest.jacobian:.4g} on {len(images)} training images")
    return largest
