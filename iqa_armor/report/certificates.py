"""What is told of a certification: rows of figures, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iqa_armor.report.notation import DASH, plain, short
from iqa_armor.results.certification import Certification, CertifiedImage, CertifiedModel, MethodFigures

IMAGE_HEADINGS = ("score", "smoothed", "lower", "upper", "seconds")


@dataclass(frozen=True)
class Line:
    """One model by one method, as the texts of its columns."""

    model: str
    method: str
    guarantee: str
    cells: tuple[str, ...]


def headings(found: Certification) -> tuple[str, ...]:
    """Return the headings of the columns of numbers."""
    ratio = ("÷\nbaseline",) if found.baseline is not None else ()
    agreement = ("SROCC", "PLCC") if _has_opinion(found) else ()
    return ("delta", "in\nranges", *ratio, "ab-\nstained", *agreement, "s/\nimage", "with\nbounds")


def lines(found: Certification) -> Iterator[Line]:
    """Yield a line per model for its plain score, followed by one per method."""
    for model in found.models:
        blanks = 3 + (found.baseline is not None)
        costs = _seconds(model.seconds_plain, None)
        yield Line(model.name, "plain score", "none", (*[DASH] * blanks, *_agreement(found, model), *costs))
        for word, figures in model.methods.items():
            yield Line(model.name, word, figures.guarantee, tuple(_cells(found, figures)))


def image_cells(image: CertifiedImage) -> tuple[str, ...]:
    """Return the figures of one image; a bound that is missing is a dash."""
    return (*map(plain, (image.score, image.smoothed, image.lower, image.upper)), f"{image.seconds:.3g}")


def notes(found: Certification) -> Iterator[str]:
    """Yield what a reader must know of the figures, in sentences."""
    methods = {word: figures for model in found.models for word, figures in model.methods.items()}
    yield "; ".join(f"{word}: {_settings(figures)}" for word, figures in methods.items()) + "."
    yield (
        "Bounds are of the true smoothed score, for every change whose L2 norm is within the radius (global), and hold "
        "for an image with the probability named as confidence. The estimate from "
        "finitely many noisy copies is random itself and leaves them more often."
    )
    yield (
        "delta: certified delta, the mean of upper − lower bound over images for which the method does not abstain, in "
        "model units and in score ranges; s/image: median seconds for the score alone."
    )
    yield from _steps(found)
    if any(word.startswith(("rs", "drs")) for word in methods):
        yield "rs and drs bound the score clipped to the model's score range, not the score itself."
    for word, figures in methods.items():
        if not figures.guarantee.startswith("global"):
            yield f"{word} is {figures.guarantee}: its bounds are no guarantee for every change within the radius."
    yield from _slopes(found)
    if found.data is not None and found.data.is_synthetic:
        yield "Images and scores are generated: SROCC and PLCC say nothing of human opinion."


def data_words(found: Certification) -> str:
    """Return what was certified on, in a few words."""
    count = max(len(figures.images) for model in found.models for figures in model.methods.values())
    if found.data is None:
        return f"{count} image files"
    return f"{found.data.spec}: {found.data.images} {found.data.split} images"


def _steps(found: Certification) -> Iterator[str]:
    seen: set[tuple[tuple[int, int], float]] = set()
    for model in found.models:
        for radius in dict.fromkeys(figures.radius for figures in model.methods.values()):
            if radius is None or radius <= 0 or (model.size, radius) in seen:
                continue
            seen.add((model.size, radius))
            yield (
                f"One step of 1/255 on every pixel of a {model.size[0]}×{model.size[1]} image has L2 norm "
                f"{model.step_l2:.2g}, {model.step_l2 / radius:.3g} times the radius of {radius:g}."
            )


def _slopes(found: Certification) -> Iterator[str]:
    for model in found.models:
        for word, figures in model.methods.items():
            if figures.jacobian is None:
                continue
            says = f"{word} on {model.name}: features move by at most s = {figures.jacobian:.3g} per unit near an image"
            if figures.lipschitz and figures.radius:
                share = figures.radius * figures.jacobian / figures.lipschitz
                says += (
                    f", and by {figures.lipschitz:.3g} anywhere (product of the layers' bounds), so that without "
                    f"approximation its bounds hold within {share:.2g} only"
                )
            yield f"{says}."


def _settings(figures: MethodFigures) -> str:
    shown = {
        key: value
        for key, value in figures.settings.items()
        if key not in ("batch_size", "jacobian") and value is not False and value != ""
    }
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )


def _has_opinion(found: Certification) -> bool:
    return any(model.srocc is not None for model in found.models)


def _cells(found: Certification, figures: MethodFigures) -> Iterator[str]:
    yield from map(_three, (figures.delta, figures.delta_share))
    if found.baseline is not None:
        yield DASH if figures.ratio_to_baseline is None else f"{figures.ratio_to_baseline:.2f}"
    yield f"{figures.abstained:.0%}"
    yield from _agreement(found, figures)
    yield from _seconds(figures.seconds_smoothed, figures.seconds_certified)


def _agreement(found: Certification, figures: CertifiedModel | MethodFigures) -> tuple[str, ...]:
    return (short(figures.srocc), short(figures.plcc)) if _has_opinion(found) else ()


def _seconds(*values: float | None) -> Iterator[str]:
    return (DASH if seconds is None else f"{seconds:.2g}" for seconds in values)


def _three(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"
