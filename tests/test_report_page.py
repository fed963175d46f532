import io
import json
import math
import re
import struct
import zlib
from functools import cache
from html.parser import HTMLParser

import pytest
from rich.cells import cell_len
from rich.console import Console

from iqa_armor.report.attack_figures import compare
from iqa_armor.report.document import Column, Report, Rows, Section, Table, Terms, row
from iqa_armor.report.evaluation import evaluation_report
from iqa_armor.report.formatting import brief, model_labels, model_marks
from iqa_armor.report.page import render_page, spread
from iqa_armor.report.terminal import TerminalReport
from iqa_armor.results.figure_registry import declared
from iqa_armor.results.figures import (
    AttackDifferences,
    AttackFigures,
    DatasetFigures,
    Differences,
    Interval,
    ModelEntry,
    Scale,
    StrengthCheck,
)
from iqa_armor.results.outcome import DataEntry, Outcome, Picture, Settings
from iqa_armor.results.table import Table as ScoreTable

EPSILONS = ("2", "4", "8")
VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = '<img src=x onerror="alert(1)">&\'$x$</script></title><b>'
PASSED = StrengthCheck(name="gain with steps", status="passed", says="More steps did more.", figures={"pgd50": 0.75})
FAILED = StrengthCheck(
    name="black box", status="failed", says="Square did more than APGD.", figures={"square": 0.9, "apgd": 0.4}
)


class Page(HTMLParser):
    """The elements of a page in order; refuses end tags that close nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def inside(self, tag: str) -> str:
        return "\n".join(text for where, text in self.texts if where == tag)

    @property
    def shown(self) -> str:
        return " ".join(" ".join(t for where, t in self.texts if where not in ("script", "style")).split())


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80" * (3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def attacked(gain: float, keys: tuple[str, ...] = EPSILONS, *, srocc: float | None = 0.4) -> AttackFigures:
    ranked = {} if srocc is None else {key: srocc - 0.01 * i for i, key in enumerate(keys)}
    return AttackFigures(
        abs_gain={key: gain * (1 + i) for i, key in enumerate(keys)},
        r_score=dict.fromkeys(keys, 0.5),
        abs_gain_std=dict.fromkeys(keys, 2 * gain),
        srocc=ranked,
        plcc=ranked,
        max_linf=dict.fromkeys(keys, 4.0),
        psnr=dict.fromkeys(keys, 37.5),
        abs_gain_auc=2 * gain if len(keys) > 1 else None,
        r_score_auc=0.5 if len(keys) > 1 else None,
        abs_gain_std_auc=4 * gain if len(keys) > 1 else None,
    )


def interval(low: float, high: float) -> Interval:
    return Interval(value=(low + high) / 2, low=low, high=high)


def difference(low: float, high: float, *, worst: bool = False) -> Differences:
    part = AttackDifferences(
        abs_gain_auc=interval(low, high), srocc={"4": interval(-high, -low)}, r_score_auc=interval(-0.1, 0.1)
    )
    attacks = {"pgd1": part, "pgd8": part}
    return Differences(srocc=interval(-0.01, 0.01), attacks=attacks, worst_case=part if worst else None)


def model(name: str, gain: float = 0.25, **changes: object) -> ModelEntry:
    values = {
        "name": name,
        "arch": "resnet18",
        "srocc": 0.91,
        "plcc": 0.92,
        "parameters": 11_177_025,
        "flops": 3_600_000_000,
        "scale": Scale(low=1.5, high=9.5),
        "attacks": {"pgd1": attacked(gain / 2), "pgd8": attacked(gain)},
    }
    return ModelEntry.model_validate(values | changes)


def outcome(*models: ModelEntry, data: tuple[str, ...] = ("csv:labels.csv",), **settings: object) -> Outcome:
    entries = [
        DataEntry(spec=spec, split="test", images=40, has_scores="nips" not in spec, weight=2, fingerprint="ab12")
        for spec in data
    ]
    own = {"attacks": {"pgd1": {"steps": 1}, "pgd8": {"steps": 8}}, "epsilons": (2, 4, 8), "batch_size": 8}
    return Outcome(
        models=models,
        baseline="base" if any(m.name == "base" for m in models) else None,
        data=tuple(entries),
        settings=Settings.model_validate(own | {"resamples": 1000, "confidence": 0.95} | settings),
        versions={"torch": "2.10"},
    )


Shown = tuple[ScoreTable, tuple[Picture, ...]]


def shown(name: str, *, images: int = 40, mos: bool = True, file: str = "a.jpg", data: str = "csv:labels.csv") -> Shown:
    clean = [2.0 + i % 7 for i in range(images)]
    opinion = [float(i % 11) for i in range(images)] if mos else math.nan
    own = {"model": name, "dataset": data, "image": [f"{i}.jpg" for i in range(images)], "mos": opinion}
    attacked = [score + 1.5 for score in clean]
    rows = [
        ScoreTable.of(images, score=clean, **own),
        ScoreTable.of(images, score=attacked, attack="pgd8", budget="4", **own),
    ]
    picture = Picture(
        model=name,
        dataset=data,
        attack="pgd8",
        budget="4",
        name=file,
        clean_score=3.25,
        attacked_score=7.25,
        gain=0.5,
        clean=png(6, 4),
        attacked=png(6, 4),
        difference=png(6, 4),
    )
    return ScoreTable.joined(rows), (picture,)


NOTHING: Shown = (ScoreTable.of(0), ())


def of_all(entries: Outcome) -> Shown:
    tables, _ = zip(*(shown(entry.name) for entry in entries.models), strict=True)
    return ScoreTable.joined(tables), ()


def unscored() -> ModelEntry:
    attacks = {"pgd1": attacked(0.1, srocc=None), "pgd8": attacked(0.2, srocc=None)}
    return model("bare", srocc=None, plcc=None, attacks=attacks, flops=None)


def with_own_budget() -> Outcome:
    attacks = {"pgd8": attacked(0.2), "stadv": attacked(0.125, ("own",))}
    return outcome(model("base", attacks=attacks), attacks={"pgd8": {}, "stadv": {"tau": 0.05}})


def several() -> Outcome:
    others = [
        model(f"hardened-number-{i}-of-many", 0.1 + 0.001 * i, difference_to_baseline=difference(-0.3, -0.1))
        for i in range(7)
    ]
    return outcome(model("base"), *others)


def worst() -> Outcome:
    hard = model("hard", worst_case=attacked(0.333), difference_to_baseline=difference(-0.3, -0.1, worst=True))
    return outcome(model("base", worst_case=attacked(0.444)), hard)


def many_attacks() -> Outcome:
    names = ("pgd1", "pgd8", "apgd", "square", "uap")
    attacks = {name: attacked(0.1 * i) for i, name in enumerate(names)}
    return outcome(model("only", attacks=attacks), attacks={name: {} for name in names})


def two_datasets() -> Outcome:
    part = DatasetFigures(images=40, srocc=0.875, attacks={"pgd8": attacked(0.2)})
    bare = DatasetFigures(images=40, attacks={"pgd8": attacked(0.2, srocc=None)})
    specs = ("csv:labels.csv", "nips2017:N")
    return outcome(model("only", datasets=dict(zip(specs, (part, bare), strict=True))), data=specs)


def nulls() -> Outcome:
    blank = {figure.name: dict.fromkeys(EPSILONS) for figure in declared("attacked")}
    empty = {name: AttackFigures.model_validate(blank) for name in ("pgd1", "pgd8")}
    hard = model("hard", srocc=None, plcc=None, attacks=empty, difference_to_baseline=Differences())
    return outcome(model("base"), hard)


def purified(defense: str, threat: str, quality: float | None = 0.75, *, defends: str = "base") -> ModelEntry:
    gains = {"pgd1": 0.25, "pgd8": 0.75 if threat == "adaptive" else 0.5}
    attacks = {
        name: attacked(gain).model_copy(
            update={"gain_score": dict.fromkeys(EPSILONS, gain), "quality": dict.fromkeys(EPSILONS, quality)}
        )
        for name, gain in gains.items()
    }
    is_purifier = quality is not None
    own = {"clean_quality": 0.875, "clean_gain_score": 0.125} if is_purifier else {}
    return model(
        f"{defends} + {defense} {threat}", defense=defense, defends=defends, threat=threat, attacks=attacks, **own
    )


def behind(*defenses: str, models: tuple[str, ...] = ("only",)) -> Outcome:
    entries = [
        purified(word, threat, None if word == "ms" else 0.75, defends=name)
        for name in models
        for threat in ("adaptive", "bare")
        for word in defenses
    ]
    return outcome(*map(model, models), *entries)


MANY = behind(*(f"noise:sigma={i}" for i in range(10)))
CASES: dict[str, tuple[Outcome, Shown]] = {
    "alone": (outcome(model("only")), shown("only")),
    "compared": (outcome(model("base"), model("hard", difference_to_baseline=difference(-0.3, -0.1))), shown("hard")),
    "several": (several(), shown("base", images=1000)),
    "unscored": (outcome(unscored(), data=("nips2017:N",)), shown("bare", mos=False, data="nips2017:N")),
    "nulls": (nulls(), NOTHING),
    "own budget": (with_own_budget(), NOTHING),
    "downwards": (outcome(model("base", -0.25), direction=-1), shown("base")),
    "hostile": (
        outcome(
            model(HOSTILE, checks=(FAILED.model_copy(update={"says": HOSTILE}),)),
            model('$x_1$ /<i> id="日"', 0.3),
            data=(HOSTILE,),
        ),
        shown(HOSTILE, file=HOSTILE, data=HOSTILE),
    ),
    "checks": (outcome(model("base", checks=(PASSED, FAILED)), model("hard", checks=(PASSED,))), NOTHING),
    "worst case": (worst(), NOTHING),
    "many attacks": (many_attacks(), NOTHING),
    "two datasets": (two_datasets(), shown("only")),
    "not attacked": (outcome(model("only", attacks={}), attacks={}), NOTHING),
    "purified": (behind("jpeg:quality=60", "flip", "ms"), shown("only")),
    "many defenses": (MANY, of_all(MANY)),
    "several purified": (behind("jpeg", HOSTILE, models=("only", "other")), NOTHING),
    "one budget": (outcome(model("only", attacks={"pgd8": attacked(0.2, ("4",))}), epsilons=(4,)), shown("only")),
}


def page_of(value: Outcome, shown: Shown) -> str:
    return render_page(evaluation_report(value, *shown))


@cache
def rendered(case: str) -> tuple[str, Page]:
    text = page_of(*CASES[case])
    return text, Page(text)


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_and_stands_alone(case: str) -> None:
    text, page = rendered(case)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        targets = [attributes[name] for name in ("src", "href", "xlink:href") if name in attributes]
        targets += re.findall(r"url\(([^)]*)\)", " ".join(attributes.values()))
        for target in targets:
            assert target.startswith("data:image/png;base64,") or target.removeprefix("#") in ids
        assert not [name for name in attributes if name.startswith(("on", "xmlns"))]
    assert not re.search(r"https?:|@import|@font-face|url\(", text.replace("url(#", ""))
    assert [script["type"] for script in page.all("script")] == ["application/json"]


@pytest.mark.parametrize("case", CASES)
def test_pictures_and_tables_have_words(case: str) -> None:
    _, page = rendered(case)
    assert all(image["alt"] for image in page.all("img"))
    charts = page.all("svg")
    assert all(chart["role"] == "img" for chart in charts)
    assert len(page.all("desc")) == len(charts) == len(page.all("title")) - 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in heading for heading in page.all("th"))


@pytest.mark.parametrize("case", CASES)
def test_outcome_comes_back_out_of_the_page(case: str) -> None:
    _, page = rendered(case)
    assert Outcome.from_json(page.inside("script")) == CASES[case][0]


@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_table_have_equal_widths(case: str) -> None:
    text, _ = rendered(case)
    for table in re.findall(r"<table>.*?</table>", text, flags=re.DOTALL):
        assert len({sum(row) for row in _grid(table)}) == 1


def _grid(table: str) -> list[list[int]]:
    rows = []
    hanging: list[int] = []  # rows that cells from above still cover, one number per column
    for line in re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL):
        spans = [
            (
                int((re.search(r'colspan="(\d+)"', cell) or ["", "1"])[1]),
                int((re.search(r'rowspan="(\d+)"', cell) or ["", "1"])[1]),
            )
            for cell in re.findall(r"<t[hd][ >][^>]*>?", line)
        ]
        rows.append([columns for columns, _ in spans] + [1] * len(hanging))
        hanging = [left - 1 for left in hanging if left > 1]
        hanging += [rows_covered - 1 for columns, rows_covered in spans if rows_covered > 1 for _ in range(columns)]
    return rows


def test_page_shows_figures_in_the_form_of_the_paper() -> None:
    _, page = rendered("compared")
    text = page.shown
    for figure in (".910", ".920", ".250", ".500", ".390", "11,177,025", "3.6", "[−.300, −.100]", "× 1.00"):
        assert figure in text
    assert "csv:labels.csv: 40 test images" in text
    assert "Better than the baseline" in text


@pytest.mark.parametrize(("low", "high", "state"), [(-0.3, -0.1, "better"), (0.1, 0.3, "worse"), (-0.1, 0.1, "open")])
def test_verdict_is_coloured_by_its_reading(low: float, high: float, state: str) -> None:
    hard = model("hard", difference_to_baseline=difference(low, high))
    page = Page(page_of(outcome(model("base"), hard), NOTHING))
    assert {"class": f"verdict {state}", "aria-label": "Verdict"} in page.all("section")


def test_failed_check_turns_the_verdict_yellow_and_is_told_right_there() -> None:
    text, page = rendered("checks")
    assert {"class": "verdict caution", "aria-label": "Verdict"} in page.all("section")
    verdict = text[text.index("<main>") : text.index("</section>")]
    assert "base: black box failed." in verdict
    assert "Square did more than APGD." in verdict
    assert "square = 0.9, apgd = 0.4" in verdict.replace("\u00a0", " ")
    assert "gain with steps" not in verdict


def test_checks_have_a_table_or_their_absence_is_said() -> None:
    shown = rendered("checks")[1].shown
    assert shown.count("✓ passed") == 2
    assert shown.count("✗ failed") == 1
    assert "pgd50 = 0.75" in shown
    assert "No strength checks were made" in rendered("alone")[1].shown


def test_hostile_names_stay_text() -> None:
    text, page = rendered("hostile")
    assert HOSTILE in page.shown
    assert len(page.all("img")) == 3
    assert not page.all("b")
    assert text.count("</script>") == 1
    assert HOSTILE in page.all("img")[0]["alt"]
    assert '$x_1$ /<i> id="日"' in page.inside("text")
    assert not page.all("i")


def test_undefined_figures_are_dashes() -> None:
    shown = rendered("nulls")[1].shown
    assert {"None", "nan"}.isdisjoint(shown.split())
    assert "– – –" in shown


def test_alt_texts_say_name_scores_and_change() -> None:
    _, page = rendered("alone")
    clean, changed, enlarged = page.all("img")
    assert clean["alt"] == "a.jpg, clean: only scores it 3.25"
    assert changed["alt"].startswith("a.jpg under pgd8 at 4/255: only scores it 7.25 instead of 3.25")
    assert "+.500 of its score range" in changed["alt"]
    assert "20 times" in enlarged["alt"]
    assert (clean["width"], clean["height"]) == ("6", "4")


def test_attack_at_its_own_budget_shows_its_one_figure() -> None:
    shown = rendered("own budget")[1].shown
    assert "stadv*" in shown
    assert ".125" in shown
    assert "Run at one budget of its own" in shown
    assert "AbsGain under stadv" not in shown


def test_curves_are_drawn_for_swept_attacks_only() -> None:
    assert "AbsGain under pgd8" in rendered("alone")[1].shown
    assert "SROCC under pgd8" in rendered("alone")[1].shown
    assert "AbsGain under pgd8" not in rendered("one budget")[1].shown
    assert "AbsGain in the worst case" in rendered("worst case")[1].shown
    assert not [title for title in rendered("unscored")[1].inside("title").splitlines() if "SROCC" in title]


def test_descriptions_of_charts_tell_their_figures() -> None:
    told = rendered("compared")[1].inside("desc")
    assert "base: .250 at 2/255, .500 at 4/255, .750 at 8/255" in told
    assert "hard: AbsGainAUC .500, SROCC .910" in told
    assert "takes the mean score from" in told


def test_worst_case_stands_in_table_and_differences() -> None:
    shown = rendered("worst case")[1].shown
    assert "SROCC, 4/255 ↑" in shown
    assert ".666" in shown
    assert "AbsGainAUC worst case" in shown
    assert "SROCC, worst case at 4/255" in shown


def test_many_attacks_go_below_one_another() -> None:
    assert "Every attack" in rendered("many attacks")[1].shown
    assert "Every attack" not in rendered("alone")[1].shown


def test_every_dataset_has_its_own_row() -> None:
    shown = rendered("two datasets")[1].shown
    assert "Every dataset" in shown
    assert ".875" in shown


def test_most_points_drawn_are_few() -> None:
    text, page = rendered("several")
    assert "250 of 1000 images are drawn" in page.inside("desc")
    assert len(text) < 400_000


def test_page_is_the_same_every_time() -> None:
    assert page_of(*CASES["compared"]) == rendered("compared")[0]


def test_json_in_the_page_is_compact() -> None:
    assert "\n" not in rendered("alone")[1].inside("script")
    assert json.loads(rendered("alone")[1].inside("script"))["schema"] == "iqa-armor/evaluation/1"


def test_spread_moves_labels_apart_in_order() -> None:
    assert spread([50.0, 6.0, 4.0], 10, highest=100) == [50, 10, 0]
    assert spread([50.0, 52.0, 20.0], 10, highest=100) == [46, 56, 20]
    assert spread([95.0, 99.0], 10, highest=100) == [90, 100]
    assert spread([], 10, highest=100) == []


def test_brief_keeps_both_ends() -> None:
    assert brief("short") == "short"
    name = brief("linearity-hardened-cayley-random")
    assert len(name) == 21
    assert name.startswith("linear")
    assert name.endswith("cayley-random")


def test_purifiers_have_a_row_per_threat_and_their_overall_figures() -> None:
    _, page = rendered("purified")
    row = "jpeg:quality=60 .875 .125 .910 .910 unaware .750 .750 .750 .250 .500 .375 .390 .390"
    assert row in page.shown.replace("▲ ", "")
    assert "adaptive .750 .750 .750 .250 .750 .500" in page.shown
    assert "Overall: mean over pgd1, pgd8" in page.shown
    assert "Purifiers" not in rendered("compared")[1].shown
    assert "pgd8 4 1.500 1.500 .500 .390 .390 .750 .750 4 37.5" in page.shown.replace("−", "-")


def test_plane_tells_every_purifier_under_both_threats_but_no_smoother() -> None:
    _, page = rendered("purified")
    told = next(text for text in page.inside("desc").splitlines() if "gain score" in text)
    assert told.startswith(
        "jpeg:quality=60: gain score .375 and quality .750 under an unaware attack, "
        "gain score .500 and quality .750 under an adaptive attack; flip: "
    )
    assert "ms" not in told
    assert "Quality over gain score, overall" not in rendered("compared")[1].inside("title")


def test_overall_is_not_defined_where_an_attack_has_no_figure() -> None:
    entry = purified("jpeg", "adaptive")
    figures = entry.attacks["pgd8"].model_copy(update={"gain_score": {"4": None}})
    broken = entry.model_copy(update={"attacks": entry.attacks | {"pgd8": figures}})
    page = Page(page_of(outcome(model("base"), broken), NOTHING))
    assert "adaptive .750 .750 .750 .250 – –" in page.shown
    assert "gain–quality plane" not in page.shown


def test_labels_tell_defenses_and_threats_apart() -> None:
    value = CASES["many defenses"][0]
    assert len(set(model_labels(value).values())) == len(value.models)
    assert set(model_labels(value).values()) >= {"only", "noise:sigma=3", "noise:sigma=3 ○"}
    drawn = {(look.color, look.marker, look.is_hollow) for look in model_marks(value).values()}
    assert len(drawn) == len(value.models)
    assert model_labels(CASES["several purified"][0])["other + jpeg bare"] == "other + jpeg ○"


def test_many_defended_models_get_one_sentence_and_few_panels() -> None:
    text, page = rendered("many defenses")
    (sentence,) = [line for line in page.inside("p").splitlines() if "behind 10 defenses" in line]
    assert "raises scores by 1.500 (noise:sigma=0) to 1.500 (noise:sigma=9) of their range where it knows" in sentence
    assert page.inside("p").count("takes SROCC") == 1
    assert "9 more panels are left out" in page.shown
    assert len(text) < 600_000


def in_terminal(value: Outcome, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(TerminalReport(evaluation_report(value)))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("case", CASES)
def test_terminal_keeps_the_width_breaks_no_word_and_shows_what_the_page_does(case: str, width: int) -> None:
    text = in_terminal(CASES[case][0], width)
    assert max(map(cell_len, text.splitlines())) <= width
    words = set(re.findall(r"[\w.]+", rendered(case)[1].shown))
    assert set(re.findall(r"[\w.]+", text)) - words <= {"Data", "Models", "Model"}


def test_columns_without_room_follow_below() -> None:
    text = in_terminal(CASES["compared"][0], 40)
    assert text.count("\nModel ") == 2
    for figure in (".910/.920", "[-.300, -.100]", ".250/.500"):
        assert figure in text


@pytest.mark.parametrize("width", [10, 24, 40])
def test_no_line_is_longer_than_the_narrowest_terminal(width: int) -> None:
    assert max(map(cell_len, in_terminal(CASES["compared"][0], width).splitlines())) <= width


def test_texts_are_broken_behind_punctuation_only_where_they_must() -> None:
    table = Table(
        "t",
        (Column("Name", kind="text"), Column("a", "G"), Column("b", "G"), Column("wide", spare=1)),
        (Rows((row("linearity-hardened-cayley-random-twice", "-1.5", "2.25", "1" * 60),)),),
    )
    report = Report("t", Terms(()), (Section("s", (table,)),), "kind", "{}")
    console = Console(file=io.StringIO(), width=37)
    console.print(TerminalReport(report))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert "linearity-hardened-cayley-  -1.5/2.25" in lines
    assert "random-twice" in lines
    assert not any("111" in line for line in lines)


def test_every_declared_figure_with_a_value_is_shown_and_explained() -> None:
    keys = dict.fromkeys(EPSILONS, 0.125)
    figures = AttackFigures.model_validate({figure.name: keys for figure in declared("attacked")})
    part = DatasetFigures.model_validate({"images": 3} | {f.name: 0.5 for f in declared("clean", "data")})
    value = outcome(
        model("only", attacks={"pgd8": figures}, datasets=dict.fromkeys(("csv:a", "csv:b"), part)),
        data=("csv:a", "csv:b"),
        attacks={"pgd8": {}},
    )
    page = Page(page_of(value, ()))
    headings = {attributes.get("title", "") for attributes in page.all("th")}
    for figure in declared("clean", "data", "attacked"):
        assert figure.label in page.inside("th")
        assert figure.says in headings
    assert {"AbsGain", "PSNR, dB"} <= set(page.inside("dt").splitlines())


def test_every_compared_figure_has_a_row_in_the_differences() -> None:
    value = CASES["compared"][0]
    found = {each.figure for each in compare(value, value.models[1])}
    for figure in declared("clean", "attacked"):
        assert not figure.compared or any(name.startswith(figure.label) for name in found)
