"""A certification as a report."""

import re
from collections.abc import Iterator

from iqa_armor.report import document
from iqa_armor.report.document import Cell, Chart, Column, Report, Row, Rows, Section, Table, number_columns, row
from iqa_armor.report.formatting import DASH, brief, marks, plain, sentences, short, significant
from iqa_armor.results.outcome import Certification, CertifiedModel, MethodFigures

LARGEST_RATIO = 20.0  # of values on a linear axis
MOST_ROWS = 200  # of a table of images of a dataset


def certification_report(found: Certification) -> Report:
    tables = tuple(_images(found, model, word) for model in found.models for word in model.methods)
    data, has_data = found.data, found.data is not None
    told = f"{data.spec}: {data.images} {data.split} images" if data else f"{len(tables[0].groups[0].rows)} image files"
    images = Section("Every image", tables, has_data, "Scores and bounds by model, method and image" * has_data)
    has_scales = all(model.scale is not None for model in found.models)
    figure, unit = ("delta_share", "score ranges") if has_scales else ("delta", "model units")
    agreement = _chart(found, "srocc", "SROCC of the smoothed score", has_levels=True)
    charts = (*_chart(found, figure, f"Certified delta, in {unit}"), *agreement)
    facts = (("seed", str(found.seed)), ("device", found.device), *found.versions.items())
    side = [Section("Methods side by side", (document.Panels(charts),))] * bool(charts)
    main = [Section("Figures", (_summary(found),)), *side]
    last = Section("Settings and versions", (document.Terms(facts),), is_detail=True)
    sections = (*main, images, last) if has_data else (images, *main, last)
    named = [_shown_name(found, model) + f" – {model.arch}" * bool(model.arch) for model in found.models]
    term = "Model" if len(named) == 1 else "Models"
    title = f"Certified scores of {', '.join(model.name for model in found.models)}"
    about = document.Terms((*((term, name) for name in named), ("Data", told)))
    return Report(title, about, sections, "certification", found.to_json(indent=None), notes=_notes(found))


def _summary(found: Certification) -> Table:
    has_ratio, has_opinion = found.baseline is not None, any(model.srocc is not None for model in found.models)
    columns = (
        *(Column("Method", kind="text"), Column("Guarantee", kind="text")),
        *number_columns(("delta", "in ranges", *["÷ baseline"] * has_ratio, "abstained", *["SROCC"] * has_opinion)),
        *(*number_columns((*["PLCC"] * has_opinion, "s/image"), spare=1), Column("with bounds")),
    )

    def agreement(figures: CertifiedModel | MethodFigures) -> tuple[str, ...]:
        return (short(figures.srocc), short(figures.plcc)) if has_opinion else ()

    def rows(model: CertifiedModel) -> Iterator[Row]:
        dashes = [DASH] * (3 + has_ratio)
        yield row("plain score", "none", *dashes, *agreement(model), significant(model.seconds_plain, 2), DASH)
        for word, each in model.methods.items():
            deltas = (significant(each.delta), significant(each.delta_share))
            ratio = [DASH if each.ratio_to_baseline is None else f"{each.ratio_to_baseline:.2f}"] * has_ratio
            seconds = (significant(each.seconds_smoothed, 2), significant(each.seconds_certified, 2))
            yield row(word, each.guarantee, *deltas, *ratio, f"{each.abstained:.0%}", *agreement(each), *seconds)

    looks = marks([model.name for model in found.models], found.baseline)
    headings = (Cell(_shown_name(found, model), "strong", looks[model.name]) for model in found.models)
    groups = tuple(Rows(tuple(rows(model)), head) for model, head in zip(found.models, headings, strict=True))
    return Table("Bounds, agreement with opinion, and cost", columns, groups)


def _images(found: Certification, model: CertifiedModel, word: str) -> Table:
    images = model.methods[word].images
    shown = images if found.data is None else images[:MOST_ROWS]
    headings = ("score", "smoothed", "lower", "upper")
    columns = (Column("Image", kind="text"), *number_columns(headings), Column("seconds", spare=1))
    rows = (row(i.name, *map(plain, (i.score, i.smoothed, i.lower, i.upper)), significant(i.seconds)) for i in shown)
    hidden = len(images) - len(shown)
    notes = (f"{hidden} more are in the JSON of this page.",) if hidden else ()
    return Table(f"{model.name}, {word}", columns, (Rows(tuple(rows)),), notes)


def _chart(found: Certification, figure: str, title: str, *, has_levels: bool = False) -> Iterator[Chart]:
    """Yield a figure by method, a point per model, where there are any."""
    words, points, told = [*dict.fromkeys(word for model in found.models for word in model.methods)], {}, []
    for model in found.models:
        by_word = {word: getattr(method, figure) for word, method in model.methods.items()}
        drawn = tuple((words.index(word), value) for word, value in by_word.items() if value is not None)
        points[model.name] = drawn
        told.append(f"{model.name}: {', '.join(f'{words[i]} {short(value)}' for i, value in drawn) or 'none'}")
    values = [value for drawn in points.values() for _, value in drawn]
    if not values:
        return
    looks = marks([model.name for model in found.models], found.baseline)
    # The smallest values could not be told from zero beside the largest.
    is_log = not has_levels and 0 < LARGEST_RATIO * min(values) < max(values)
    series = tuple(document.Series(drawn, looks[name], brief(name)) for name, drawn in points.items() if drawn)
    ticks: dict[float, str] = {place: re.sub("([:,])", r"\1\n", word) for place, word in enumerate(words)}
    levels = tuple((m.srocc, looks[m.name].color) for m in found.models if has_levels and m.srocc is not None)
    limits = None if is_log or has_levels else (0, None)
    axes = ("", title if has_levels else title[0].lower() + title[1:])
    title += "; dashed: of the plain score" * has_levels
    yield Chart(title, f"{'; '.join(told)}.", axes, series, ticks, limits, levels, is_log=is_log)


def _notes(found: Certification) -> tuple[str, ...]:
    def settings(figures: MethodFigures) -> str:
        hidden = ("batch_size", "jacobian")
        shown = ((k, v) for k, v in figures.settings.items() if k not in hidden and v is not False and v != "")
        return ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown)

    methods = {word: figures for model in found.models for word, figures in model.methods.items()}
    is_clipped = any(word.startswith(("rs", "drs")) for word in methods)
    told = {"found": found, "methods": methods, "clipped": is_clipped, "settings": settings}
    return sentences("certification.jinja", told)


def _shown_name(found: Certification, model: CertifiedModel) -> str:
    return model.name + " (baseline)" * (model.name == found.baseline)
