"""Every command explains its parameters, alike everywhere, and without what only computing needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from PIL import Image
from pydantic import Field
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app, load_command
from iqa_armor.cli.arguments import Machine
from iqa_armor.cli.commands import COMMANDS
from iqa_armor.cli.options import options
from iqa_armor.errors import RecipeError, UsageError
from iqa_armor.settings import HELP, Flag, OneOf, SettingsModel, Size, read_levels, read_numbers

# Options for which absence is no value: nothing is done or said then.
OPTIONAL = {
    *("--help", "--recipe", "--report", "--scores", "--require", "--weights", "--baseline", "--purify", "--smooth"),
    *("--limit", "--arch", "--output", "--leaf", "--set", "--results", "--unlabelled"),
}
EVALUATE_KEEPS = ("evaluate", "--out")


def leaves() -> Iterator[tuple[list[str], Any]]:
    for name in COMMANDS:
        command = load_command(name)
        below = getattr(command, "commands", None)
        yield from [([name], command)] if below is None else (([name, each], below[each]) for each in below)


LEAVES, HELPS = list(leaves()), ("--help", "--help-all")
PARAMETERS = [(" ".join(words), parameter) for words, command in LEAVES for parameter in command.params]


def flag_of(parameter: Any) -> str:
    return next((flag for flag in parameter.opts if flag.startswith("--")), parameter.name)


def is_explained(command: str, parameter: Any) -> bool:
    flag = flag_of(parameter)
    if not parameter.help or parameter.required or flag in OPTIONAL or (command, flag) == EVALUATE_KEEPS:
        return bool(parameter.help)
    is_switch = getattr(parameter, "is_flag", False) and not parameter.secondary_opts
    is_shown = bool(parameter.show_default) and parameter.default is not None
    return is_switch or is_shown or "[default: " in parameter.help


def test_every_parameter_has_help_and_shows_its_default() -> None:
    assert [(command, flag_of(each)) for command, each in PARAMETERS if not is_explained(command, each)] == []


def test_no_two_commands_describe_an_option_differently() -> None:
    said: dict[str, set[str]] = {}
    for _, parameter in PARAMETERS:
        if flag_of(parameter).startswith("--"):
            text = parameter.help.rpartition("[")[0].rstrip(" \\") if parameter.help[-1] == "]" else parameter.help
            said.setdefault(flag_of(parameter), set()).add(text)
    assert {flag: texts for flag, texts in said.items() if len(texts) > 1} == {}


def shown_help(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("words", [words for words, _ in LEAVES], ids=" ".join)
def test_usual_options_fit_a_screen_and_all_are_behind_another_flag(words: list[str]) -> None:
    usual, everything = (shown_help(*words, flag) for flag in HELPS)
    assert max(map(len, usual.splitlines())) <= 80
    assert len(usual.splitlines()) <= 40
    assert "--json" in usual
    shown = re.findall(r"^  (?:-\w, )?--([a-z-]+)", usual, re.MULTILINE)
    named = [name for name in shown if name in ("out", "data")]
    assert named == shown[: len(named)]  # what nearly every call names comes first
    command = next(command for own, command in LEAVES if own == words)
    for parameter in command.params:
        assert (parameter.opts[0] if parameter.opts[0][0] == "-" else parameter.metavar) in everything
        assert parameter.metavar or getattr(parameter, "is_flag", False), parameter.name
    if hidden := {each.rich_help_panel for each in command.params} - {None}:
        assert f"--help-all shows {sum(each.rich_help_panel in hidden for each in command.params)} more" in usual


@pytest.mark.parametrize("words", [words for words, _ in LEAVES], ids=" ".join)
def test_examples_of_help_texts_are_commands_with_options_that_exist(words: list[str]) -> None:
    text = shown_help(*words, "--help")
    examples = [line.split() for line in re.findall(r"^  iqa-armor (.+)$", text, re.M)]
    assert examples[0][: len(words)] == words
    for example in examples:
        everything = shown_help(*example[: 2 if example[0] == "data" else 1], "--help-all")
        assert all(flag in everything for flag in example if flag.startswith("-")), example


def test_help_of_every_command_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from iqa_armor.cli import app\n"
        f"for words in {[[*words, flag] for words, _ in LEAVES for flag in HELPS]}:\n"
        "    done = CliRunner().invoke(app, words)\n"
        "    heavy = {'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules)\n"
        "    if heavy or done.exit_code:\n        sys.exit(f'{words}: {heavy} {done.output}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Soup(SettingsModel):
    """Settings of every kind that an option is made from."""

    kind: Annotated[str, OneOf("iqa_armor.attacks:ATTACKS")] = Field("pgd1", description="Kind, one of")
    size: Annotated[Size | None, Flag(kind=str)] = Field(None, description="Size.")
    share: float = Field(0.5, gt=0, le=1, description="Share.")
    counts: Annotated[tuple[int, ...], Flag(("--count",))] = Field((1, 8), description="Counts.")
    is_hot: bool = Field(True, description="Whether it is hot.")
    has_salt: bool = Field(False, description="Salted.")


class StrictSoup(Soup):
    """The same, refused as a recipe is."""

    error = RecipeError


def called(kind: type[SettingsModel], *words: str) -> Any:
    """Return what a command that takes `kind` is called with."""
    caught: list[Any] = []

    def command(soup: Any, machine: Machine) -> None:
        caught.append(soup)

    command.__annotations__ = {"soup": kind, "machine": Machine, "return": None}
    app = typer.Typer()
    app.command()(options(without={"device"})(command))
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return caught[0] if caught else done


def test_flags_become_settings_of_their_types() -> None:
    assert called(Soup) == Soup()
    words = ("--kind", "apgd", "--size", "32x40", "--count", "3", "--count", "5", "--no-is-hot", "--has-salt")
    assert called(Soup, *words) == Soup(kind="apgd", size=(32, 40), counts=(3, 5), is_hot=False, has_salt=True)


def test_defaults_and_ranges_are_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HELP, "Soup", {"size": {"metavar": "HxW", "shown": "any"}})
    shown = " ".join(called(Soup, "--help-all").output.replace("│", " ").split())
    for text in (
        "[default: pgd1]",
        "[default: any]",
        "[default: 0.5; 0 < x <= 1]",
        "[default: 1, 8]",
        "Kind, one of pgd1",
        "--count N",
        "--size HxW",
    ):
        assert text in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--share", "2"), "--share: input should be less than or equal to 1, got 2.0"),
        (("--size", "²x3"), "--size: takes HEIGHTxWIDTH, e.g. 498x664, got '²x3'"),
        (("--size", "0x3"), "--size: takes HEIGHTxWIDTH"),
        (("--kind", "apgdd"), "unknown attack 'apgdd'; did you mean apgd"),
    ],
)
def test_values_that_are_not_allowed_are_named_with_their_flag(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        called(Soup, *words)
    with pytest.raises(UsageError if "unknown" in message else RecipeError, match=message):
        called(StrictSoup, *words)


@pytest.fixture
def soup_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "soup.toml"


def test_a_flag_wins_over_set_and_that_over_a_recipe(soup_file: Path) -> None:
    soup_file.write_text('share = 0.75\nhas_salt = true\nsize = [32, 40]\ncount = [3]\nkind = "apgd"\n')
    words = ("--recipe", "soup.toml", "--set", "counts=[5, 6]", "--set", "share=0.5", "--share", "0.25")
    assert called(Soup, *words) == Soup(share=0.25, has_salt=True, size=(32, 40), counts=(5, 6), kind="apgd")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ('has_salt = "no salt"', (), r"soup\.toml: has_salt: .*got 'no salt'"),
        ("shar = 1", (), r"soup\.toml: there is no setting 'shar' here; did you mean 'share'"),
        ("device = 'cpu'", (), r"soup\.toml: device is no part of a recipe; give --device itself"),
        ("kind = 'apgdd'", (), "kind: unknown attack 'apgdd'"),
        ("share = 2", ("--has-salt",), r"soup\.toml: share: .*got 2"),
        ("share = ", (), "not TOML"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named_with_the_file(
    soup_file: Path, text: str, words: tuple[str, ...], message: str
) -> None:
    soup_file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        called(Soup, "--recipe", "soup.toml", *words)


@pytest.mark.parametrize(
    ("change", "message"),
    [("shar=1", "did you mean 'share'"), ("share", "KEY=VALUE"), ("share=2", "--set share: .*got 2"), ("kind=x", "x")],
)
def test_what_is_wrong_with_a_change_is_named(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        called(Soup, "--set", change)


def test_recipe_is_shown_with_sources_and_reads_back_as_it_was(soup_file: Path) -> None:
    words = ("--set", "kind=apgd", "--count", "3", "--no-is-hot", "--print-recipe")
    shown = called(Soup, *words).output
    assert {'kind = "apgd" # --set kind', "counts = [3] # --count", "share = 0.5 # default", "# size is not set"} <= {
        " ".join(line.split()) for line in shown.splitlines()
    }
    soup_file.write_text(shown)
    assert called(Soup, "--recipe", "soup.toml") == Soup(kind="apgd", counts=(3,), is_hot=False)


SETTLED = [words[0] for words, command in LEAVES if any(each.name == "recipe" for each in command.params)]


@pytest.mark.parametrize("command", SETTLED)
def test_every_command_reads_the_recipe_that_it_shows(command: str, tmp_path: Path) -> None:
    words = [command, *["x"] * sum(each.required for each in load_command(command).params if each.opts[0][0] != "-")]
    words += ["-o", "x"] if command == "attack" else []
    first = CliRunner().invoke(app, [*words, "--print-recipe"])
    assert first.exit_code == 0, first.stderr
    (tmp_path / "r.toml").write_text(first.stdout)
    again = CliRunner().invoke(app, [*words, "--recipe", str(tmp_path / "r.toml"), "--print-recipe", "--json"])
    assert again.exit_code == 0, again.stderr
    assert set(json.loads(again.stdout)["sources"].values()) <= {str(tmp_path / "r.toml"), "default"}
    assert [line.split("  #")[0].rstrip() for line in first.stdout.splitlines() if line[0] != "#"] == [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in json.loads(again.stdout)["settings"].items()
        if value is not None
    ]


def test_all_long_commands_take_recipes() -> None:
    assert {"train", "harden", "evaluate", "certify", "attack", "train-purifier", "demo"} <= set(SETTLED)


@pytest.mark.parametrize("text", ["", "1,", "a", "nan", "1,inf", "٣", "²", "1;2"])
def test_texts_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="takes numbers separated by commas"):
        read_numbers(text)


def test_texts_become_numbers_and_values_stay() -> None:
    assert read_numbers("1,2.5") == (1.0, 2.5)
    assert read_levels("51,255") == (0.2, 1.0)
    assert read_levels((0.2, 1.0)) == (0.2, 1.0)
    with pytest.raises(ValueError, match="takes 3 numbers"):
        read_numbers("1,2", count=3)


def test_threads_are_set_before_torch_is_imported_and_wait_passively(tmp_path: Path) -> None:
    Image.new("RGB", (40, 32), (90, 80, 70)).save(tmp_path / "one.png")
    model = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"
    words = ["score", str(model), str(tmp_path / "one.png"), "--threads", "1", "--device", "cpu"]
    code = (
        "import os, sys\nfrom iqa_armor.cli import app\n"
        f"app({words!r}, standalone_mode=False)\n"
        "import torch\n"
        "found = torch.get_num_threads(), os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY']\n"
        "print(*found, file=sys.stderr)\n"
    )
    free = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "1 1 PASSIVE"
    assert "training images score" in done.stdout


def declared(kind: type[SettingsModel] = SettingsModel) -> Iterator[type[SettingsModel]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("iqa_armor."):
            yield from (each, *declared(each))


def test_every_setting_is_described_and_every_description_is_of_a_setting() -> None:
    kinds = {kind.__name__: kind for kind in declared()}
    assert {"Recipe", "Opening", "EvaluationSettings", "Machine"} <= set(kinds)
    blank = {
        (name, key) for name, kind in kinds.items() for key, field in kind.model_fields.items() if not field.description
    }
    assert blank == set()
    own = {"any": {key for kind in kinds.values() for key in kind.model_fields}} | {
        name: set(kind.__annotations__) for name, kind in kinds.items()
    }
    assert [(name, key) for name, told in HELP.items() for key in told if key not in own[name]] == []


def test_children_inherit_what_is_said_and_add_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HELP, "Bowl", {"count": {"metavar": "MANY", "says": "How many."}})
    monkeypatch.setitem(HELP, "Plate", {"count": {"shown": "a few"}})

    class Bowl(SettingsModel):
        count: int = 1

    class Plate(Bowl):
        count: int = 2
        seed: int = 0

    assert Plate.told("count") == {"metavar": "MANY", "says": "How many.", "shown": "a few"}
    described = Plate.model_json_schema()["properties"]
    assert described["count"]["description"] == Plate.model_fields["count"].description == "How many."
    assert described["seed"]["description"] == "Of everything that is drawn."
