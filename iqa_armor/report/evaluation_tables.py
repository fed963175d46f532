"""The tables of an evaluation."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from iqa_armor.report import attack_figures, formatting
from iqa_armor.report.attack_figures import WORST, area, attacks_shown, figures_of, headline, shown_budget, starred
from iqa_armor.report.document import READINGS, Cell, Column, Row, Rows, Table, Tone, number_columns, row
from iqa_armor.report.formatting import DASH, DOWN, UP, budget, listed, name_cell, plain, short, signed, significant
from iqa_armor.results.figure_registry import declared
from iqa_armor.results.figures import ModelEntry
from iqa_armor.results.outcome import Outcome
from iqa_armor.results.requirements import flattened

SIDE_BY_SIDE = 2  # attacks, as in the paper; more of them go below one another
SYMBOLS = {"passed": "✓", "failed": "✗", "not applicable": DASH}
TONES: Mapping[str, Tone] = {"passed": "good", "failed": "caution", "not applicable": "dim"}


def models_table(outcome: Outcome) -> Table:
    """Return a row per model as in the paper's tables; of many attacks, the headline's and the worst case."""
    columns, texts = zip(*_columns(outcome), strict=True)
    rows = tuple(row(name_cell(outcome, m), *cells) for m, *cells in zip(outcome.models, *texts, strict=True))
    notes = attack_figures.star_note(outcome) if any(column.heading.endswith("*") for column in columns) else ()
    notes += attack_figures.saturation_note(outcome)
    return Table("Quality, robustness and cost", (Column("Model", kind="text"), *columns), (Rows(rows),), notes)


def attacks_table(outcome: Outcome) -> Table:
    """Return the rows of every model, one per attack; none where `models_table` has room for them."""
    shown = attacks_shown(outcome) if len(outcome.settings.attacks) > SIDE_BY_SIDE else []
    gain, r_score, std = _areas(outcome)
    words = (gain, r_score, f"SROCC, {budget(headline(outcome)[1])}{UP}")
    columns = (Column("Attack", kind="text"), *number_columns(words), Column(std, spare=1))

    def rows(model: ModelEntry) -> Iterator[Row]:
        for name in shown:
            figures = figures_of(model, name)
            ranked = figures.srocc.get(shown_budget(outcome, name))
            values = (area(figures, "abs_gain"), area(figures, "r_score"), ranked, area(figures, "abs_gain_std"))
            yield row(starred(outcome, name), *map(short, values))

    notes = attack_figures.star_note(outcome) + attack_figures.saturation_note(outcome)
    return Table("Every attack", columns, _by_model(outcome, rows), notes)


def differences_table(outcome: Outcome) -> Table:
    """Return a group of rows per compared model: difference, interval, ratio, reading; none without a baseline."""

    def rows(model: ModelEntry) -> Iterator[Row]:
        for each in attack_figures.compare(outcome, model):
            low, high = each.interval.low, each.interval.high
            limits = DASH if low is None or high is None else f"[{signed(low)}, {signed(high)}]"
            ratio = DASH if each.ratio is None else f"× {each.ratio:.2f}"
            values = (short(each.baseline), short(each.value), signed(each.interval.value), limits, ratio)
            yield row(each.figure, *values, Cell(each.reading, READINGS[each.reading]))

    settings, sides = outcome.settings, number_columns((outcome.baseline or "", "Model"), spare=1)
    found = number_columns(("Difference", f"{settings.confidence * 100:g} % interval", "Ratio"))
    columns = (Column("Figure", kind="text"), *sides, *found, Column("Reading", kind="text"))
    how = f"Paired bootstrap over images, {settings.resamples} resamples, seed {settings.seed}"
    covers = "intervals cover the choice of images, not the luck of a training run"
    note = f"A difference is called better or worse where its interval leaves out zero. {how}; {covers}."
    return Table(f"Difference to {outcome.baseline}", columns, _by_model(outcome, rows), (note,))


def seeds_table(outcome: Outcome) -> Table:
    """Return means and deviations of the main figures over seeds; no rows where there was one only."""
    shown = {"srocc": "SROCC", "plcc": "PLCC"}
    for name in outcome.settings.attacks:
        key = shown_budget(outcome, name)
        for figure, label in (("abs_gain", "AbsGain"), ("srocc", "SROCC")):
            shown[f"attacks.{name}.{figure}.{key}"] = f"{label}, {name}, {budget(key)}"
    found = {model.name: flattened(model.model_dump()) for model in outcome.models}

    def rows(model: ModelEntry) -> Iterator[Row]:
        spread = outcome.spread.get(model.name, {})
        for path, label in shown.items():
            if path in spread:
                yield row(label, short(found[model.name][path]), short(spread[path]))

    columns = (Column("Figure", kind="text"), *number_columns(("Mean", "Standard deviation")))
    note = "All figures are means over seeds; pictures and scatter plots are of the first."
    return Table(f"Over seeds {', '.join(map(str, outcome.seeds))}", columns, _by_model(outcome, rows), (note,))


def datasets_table(outcome: Outcome) -> Table:
    """Return the figures of every dataset by itself; no rows where there is one only."""
    attack, key = headline(outcome)
    parts = [part for model in outcome.models for part in model.datasets.values()]
    shown = [figure for figure in declared("clean", "data") if any(getattr(p, figure.name) is not None for p in parts)]
    declared_columns = (Column(figure.label, meaning=figure.says) for figure in shown)
    under = number_columns((f"AbsGainAUC {attack}", f"SROCC, {attack}, {budget(key)}"))
    columns = (Column("Dataset", kind="text"), Column("Images"), *declared_columns, *under)

    def rows(model: ModelEntry) -> Iterator[Row]:
        for spec, part in model.datasets.items() if len(outcome.data) > 1 else ():
            attacked = figures_of(part, attack)
            clean = ((plain if each.is_plain else short)(getattr(part, each.name)) for each in shown)
            found = (area(attacked, "abs_gain"), attacked.srocc.get(key))
            yield row(spec, str(part.images), *clean, *map(short, found))

    return Table("Every dataset", columns, _by_model(outcome, rows))


def budgets_table(outcome: Outcome) -> Table:
    """Return a row per model, attack and budget, with every figure that has a value anywhere."""
    found = [figures_of(model, attack) for model in outcome.models for attack in attacks_shown(outcome)]
    values = {each: [v for f in found for v in getattr(f, each.name).values()] for each in declared("attacked")}
    shown = [each for each, given in values.items() if any(value is not None for value in given)]
    columns = (Column("Attack", kind="text"), Column("ε"), *(Column(each.label, meaning=each.says) for each in shown))

    def rows(model: ModelEntry) -> Iterator[Row]:
        for attack in attacks_shown(outcome) if model.attacks else ():
            figures = figures_of(model, attack)
            keys, last = attack_figures.distinct(figures), [*figures.abs_gain][-1:]
            for key in keys:
                texts = ((plain if each.is_plain else short)(getattr(figures, each.name).get(key)) for each in shown)
                yield row(attack, key if key != keys[-1] or [key] == last else f"{key} to {last[0]}", *texts)

    notes = ("ε and distances in 1/255.", *attack_figures.saturation_note(outcome))
    return Table("Every budget", columns, _by_model(outcome, rows), notes)


def checks_table(outcome: Outcome) -> Table:
    says = Column("What it says", kind="prose", spare=1)
    columns = (Column("Check", kind="text"), Column("Result", kind="text"), says, Column("Figures", kind="text"))

    def rows(model: ModelEntry) -> Iterator[Row]:
        for check in model.checks:
            status = Cell(f"{SYMBOLS[check.status]} {check.status}", TONES[check.status])
            yield row(check.name, status, check.says, listed(check.figures))

    return Table("Were the attacks strong?", columns, _by_model(outcome, rows))


def purifiers_table(outcome: Outcome) -> Table:
    """Return a group of rows per model and purifier, a row per threat."""
    attacks, (attack, key) = {name: starred(outcome, name) for name in outcome.settings.attacks}, headline(outcome)
    names = [*attacks] if len(attacks) <= SIDE_BY_SIDE else [attack]
    names += [attack_figures.OVERALL] * (len(attacks) > 1)

    def both(group: str) -> tuple[Column, Column]:
        return Column("before", group, spare=2), Column("after", group)

    def each_attack(group: str) -> Iterator[Column]:
        return (Column(attacks.get(name, name), group, spare=int(name != names[-1])) for name in names)

    columns = (
        Column("Purifier", kind="text"),
        *number_columns((f"Clean quality{UP}", f"Clean gain{DOWN}")),
        *both(f"Clean SROCC{UP}"),
        Column("Attack", kind="text"),
        *(*each_attack(f"Quality{UP}"), *each_attack(f"Gain score{DOWN}")),
        *both(f"SROCC, {attack}, {budget(key)}{UP}"),
    )
    purified = attack_figures.purifications(outcome)
    groups = tuple(Rows(tuple(_behind_purifier(outcome, each, names))) for each in purified)
    shared = sorted({shown_budget(outcome, name) for name, shown in attacks.items() if shown == name})
    where = [f"at {budget(key)}" for key in shared]
    where += ["at its own budget where starred"] if any(shown != name for name, shown in attacks.items()) else []
    told = {"attacks": attacks, "where": where, "eot": outcome.settings.eot, "side_by_side": SIDE_BY_SIDE}
    return Table("Images and scores behind purifiers", columns, groups, formatting.sentences("purifiers.jinja", told))


def _columns(outcome: Outcome) -> Iterator[tuple[Column, list[str]]]:
    """Yield the columns of `models_table` with a text for each model."""
    gain, r_score, std = _areas(outcome)
    shown, models = attacks_shown(outcome), outcome.models
    main = [name for name in shown if name in (headline(outcome)[0], WORST)]
    names = shown if len(outcome.settings.attacks) <= SIDE_BY_SIDE else main

    def areas(group: str, figure: str, attacks: list[str], *, spare: int = 0) -> Iterator[tuple[Column, list[str]]]:
        for name in attacks:
            texts = [short(area(figures_of(model, name), figure)) for model in models]
            yield Column(starred(outcome, name), group, spare=spare), texts

    yield Column("SROCC", f"Clean{UP}"), [short(model.srocc) for model in models]
    yield Column("PLCC", f"Clean{UP}"), [short(model.plcc) for model in models]
    if any(model.worst_case_srocc for model in models):
        at, group = attack_figures.RANKED_AT, f"Worst-case SROCC{UP}"
        yield Column(budget(at), group), [short(model.worst_case_srocc.get(at)) for model in models]
        yield Column("mean", group), [short(model.worst_case_srocc_mean) for model in models]
    yield from areas(gain, "abs_gain", names)
    yield from areas(r_score, "r_score", names)
    for name in main:
        key = shown_budget(outcome, name)
        texts = [short(figures_of(model, name).srocc.get(key)) for model in models]
        yield Column(name, f"SROCC, {budget(key)}{UP}"), texts
    yield from areas(std, "abs_gain_std", [name for name in names if name != WORST], spare=2)
    yield Column("Parameters", spare=1), [f"{model.parameters:,}" for model in models]
    yield Column("GFLOPs", spare=1), [significant(model.flops, unit=1e9) for model in models]
    yield Column("ms/image", spare=1), [significant(model.timing.seconds_per_image, unit=1e-3) for model in models]


def _areas(outcome: Outcome) -> tuple[str, str, str]:
    less = DOWN if outcome.settings.sign > 0 else UP
    mean = " mean" if attack_figures.saturation_note(outcome) else "AUC"
    return f"AbsGain{mean}{less}", f"R-Score{mean}{UP}", f"Gain in std{less}"


def _by_model(outcome: Outcome, rows: Callable[[ModelEntry], Iterable[Row]]) -> tuple[Rows, ...]:
    found = ((model, tuple(rows(model))) for model in outcome.models)
    return tuple(Rows(each, name_cell(outcome, model)) for model, each in found if each)


def _behind_purifier(outcome: Outcome, entries: Sequence[ModelEntry], names: Sequence[str]) -> Iterator[Row]:
    (attack, key), last = headline(outcome), entries[-1]
    bare = next((model for model in outcome.models if model.name == last.defends and model.threat is None), None)
    named = Cell(formatting.defense_label(outcome, last), "strong", formatting.model_marks(outcome)[last.name])
    clean = (last.clean_quality, last.clean_gain_score, bare.srocc if bare else None, last.srocc)
    for place, model in enumerate(entries):
        first = (None,) * (1 + len(clean)) if place else row(named, *map(short, clean))
        quality = (short(attack_figures.at_shown_budget(outcome, model, "quality", name)) for name in names)
        gain = (short(attack_figures.at_shown_budget(outcome, model, "gain_score", name)) for name in names)
        under = (short(figures_of(entry, attack).srocc.get(key) if entry else None) for entry in (bare, model))
        yield (*first, *row(attack_figures.THREATS[model.threat], *quality, *gain, *under))
