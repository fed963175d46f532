"""Certify one model on images by several methods, which learn from training images what they must know of it."""

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Generator, Tensor

from iqa_armor.attacks.base import frozen
from iqa_armor.data.base import ImageSet
from iqa_armor.data.prepared import PreparedImages, batches
from iqa_armor.defenses.base import BoundSmoother, Certificate, Smoother
from iqa_armor.defenses.smoothing.feature_smoothing import BoundFeatureSmoother, FeatureCertificate, FeatureSmoothing
from iqa_armor.errors import ModelLoadError, UsageError
from iqa_armor.machine import time_on
from iqa_armor.metrics.correlation import plcc, srocc
from iqa_armor.models.base import QualityModel
from iqa_armor.pipeline.settings import CertifySettings
from iqa_armor.progress import Progress, silent
from iqa_armor.results.figures import Scale
from iqa_armor.results.outcome import CertifiedImage, CertifiedModel, MethodFigures

T = TypeVar("T")
TIMED_IMAGES = 3  # for which the smoothed score alone is timed as well
CALIBRATION_IMAGES, CALIBRATION_BATCH = 32, 8
CHANNELS, LEVELS = 3, 255


@dataclass(frozen=True)
class Subject:
    """One model on its device, with the images to certify it on; `prepare` turns a uint8 image into the network's."""

    model: QualityModel
    images: ImageSet
    prepare: Callable[[Tensor], Tensor]
    device: torch.device
    settings: CertifySettings
    training: ImageSet | None = None
    scale: Scale | None = None
    progress: Progress = silent

    def image(self, index: int) -> Tensor:
        """Return a prepared image (1, 3, H, W) on the device."""
        return self.prepare(self.images[index]).unsqueeze(0).to(self.device)

    def generator(self, index: int) -> Generator:
        """Return the noise of one image: by seed and file name, so that it is the same whatever else is certified."""
        name = Path(self.images.names[index]).name
        digest = hashlib.sha256(f"{self.settings.seed}\t{name}".encode(errors="surrogateescape")).digest()
        return Generator(device=self.device).manual_seed(int.from_bytes(digest[:8]) % 2**63)

    @torch.no_grad()
    def plain_score(self, image: Tensor) -> float:
        return float(self.model(image))

    def timed(self, compute: Callable[[], T]) -> tuple[T, float]:
        start = time_on(self.device)
        result = compute()
        return result, time_on(self.device) - start

    def agreement(self, scores: Sequence[float]) -> dict[str, float | None]:
        """Return SROCC and PLCC with opinion of scores, turned round where small ones mean good quality."""
        if self.images.mos is None:
            return {"srocc": None, "plcc": None}
        rising = torch.tensor(scores, dtype=torch.float64) * (1 if self.model.higher_is_better else -1)
        mos = self.images.mos.double()
        return {"srocc": float(srocc(rising, mos)), "plcc": float(plcc(rising, mos))}


def certify_model(subject: Subject, smoothers: Mapping[str, Smoother]) -> CertifiedModel:
    """Return the figures of one model by all methods, named by their words; its state is left as it was.

    Raises UsageError without a training image to calibrate on, ModelLoadError for scores or models that do not serve.
    """
    model, (_, _, height, width) = subject.model, subject.image(0).shape
    with frozen(model):
        fitted = {word: _calibrated(smoother, subject) for word, smoother in smoothers.items()}
        bound = {word: smoother.bind(model) for word, smoother in fitted.items()}
        subject.plain_score(subject.image(0))  # what the first call prepares is not timed
        timed = [subject.timed(partial(subject.plain_score, subject.image(i))) for i in range(len(subject.images))]
        plain = [score for score, _ in timed]
        if bad := [name for name, score in zip(subject.images.names, plain, strict=True) if not math.isfinite(score)]:
            raise ModelLoadError(f"{model.name} gives {bad[0]} a score that is not finite; check its weights")
        figures = {word: _certify(subject, word, (fitted[word], bound[word]), plain=plain) for word in fitted}
    return CertifiedModel(
        name=model.name,
        arch=model.arch,
        scale=subject.scale,
        size=(height, width),
        step_l2=math.sqrt(CHANNELS * height * width) / LEVELS,
        seconds_plain=statistics.median(seconds for _, seconds in timed),
        methods=figures,
        **subject.agreement(plain),
    )


def _calibrated(smoother: Smoother, subject: Subject) -> Smoother:
    """Return a smoother, one in calibrated mode with the largest Jacobian of 32 clean training images (ours)."""
    if not isinstance(smoother, FeatureSmoothing) or smoother.mode != "calibrated" or smoother.jacobian:
        return smoother
    if subject.training is None or not len(subject.training):
        problem = "mode=calibrated measures the Jacobian on training images, and there are none here"
        raise UsageError(f"{problem}; name a dataset with a training split by --data, or give jacobian=NUMBER")
    images, largest = subject.training.limit(CALIBRATION_IMAGES), smoother
    for pixels, _, _ in batches(PreparedImages(images, subject.prepare), CALIBRATION_BATCH):
        found = smoother.calibrate(subject.model, pixels.to(subject.device), batch_size=CALIBRATION_BATCH)
        largest = max(largest, found, key=lambda each: each.jacobian)
    says = f"s = {largest.jacobian:.4g} on {len(images)} training images"
    subject.progress(f"calibrating {subject.model.name}", 1, 1, says)
    return largest


def _certify(subject: Subject, word: str, how: tuple[Smoother, BoundSmoother], *, plain: list[float]) -> MethodFigures:
    (smoother, bound), scale = how, subject.scale
    found: list[CertifiedImage] = []
    smoothed: list[float] = []
    slopes: list[float] = []
    for index, score in enumerate(plain):
        image = subject.image(index)
        certificate, seconds = subject.timed(partial(bound.certify, image, subject.generator(index)))
        if index < TIMED_IMAGES:
            with torch.no_grad():
                smoothed.append(subject.timed(partial(bound.scores, image, subject.generator(index)))[1])
        if isinstance(certificate, FeatureCertificate):
            slopes += certificate.jacobian.tolist()
        found.append(_entry(subject, index, certificate, score=score, seconds=seconds))
        subject.progress(f"certifying {subject.model.name} by {word}", index + 1, len(plain))
    deltas = [image.delta for image in found if image.delta is not None]
    delta = statistics.fmean(deltas) if deltas else None
    values = {field.name: getattr(smoother, field.name) for field in fields(cast("Any", smoother)) if field.init}
    return MethodFigures(
        guarantee=smoother.guarantee,
        settings={name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in values.items()},
        delta=delta,
        delta_share=None if delta is None or scale is None else delta / scale.width,
        abstained=sum(image.abstained for image in found) / len(found),
        seconds_smoothed=statistics.median(smoothed),
        jacobian=max(slopes, default=None),
        lipschitz=_lipschitz(subject, bound),
        seconds_certified=statistics.median(image.seconds for image in found),
        images=tuple(found),
        **subject.agreement([math.nan if image.smoothed is None else image.smoothed for image in found]),
    )


def _lipschitz(subject: Subject, smoother: BoundSmoother) -> float | None:
    """Return the global bound of what stands in front of the noise, where that is wanted and can be found."""
    if not (subject.settings.global_bound and isinstance(smoother, BoundFeatureSmoother)):
        return None
    task = f"bounding the backbone of {subject.model.name}"
    subject.progress(task, 0, 1)
    bound = smoother.global_bound((subject.image(0).shape[-2], subject.image(0).shape[-1]))
    subject.progress(task, 1, 1, bound.problem)
    return bound.value


def _entry(subject: Subject, index: int, certificate: Certificate, *, score: float, seconds: float) -> CertifiedImage:
    mos = subject.images.mos
    return CertifiedImage(
        name=subject.images.names[index],
        mos=None if mos is None else float(mos[index]),
        score=score,
        smoothed=float(certificate.scores[0]),
        lower=float(certificate.lower[0]),
        upper=float(certificate.upper[0]),
        abstained=bool(certificate.abstained[0]),
        seconds=seconds,
    )
