"""A pipeline file: checked whole, run step by step, and only where something has changed."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_images
from typer.testing import CliRunner

import iqa_armor
from iqa_armor.cli import app
from iqa_armor.cli.commands.run import read_steps
from iqa_armor.errors import RecipeError
from iqa_armor.pipeline.steps import Pipeline, Step
from iqa_armor.recipe import read_recipe

MODEL = Path(iqa_armor.__file__).parent / "assets" / "demo.safetensors"
EXAMPLE = Path(__file__).parents[1] / "examples" / "pipeline.toml"


class Written(Pipeline):
    """A pipeline whose commands write their words into their outputs; "fail" ends with 10, "break" with 3."""

    def _call(self, step: Step, *, quiet: bool) -> int:
        self.called = [*getattr(self, "called", []), step.words]
        for name in (name.replace("{seed}", "0") for name in step.outputs):
            inputs = [(self.folder / word).read_text() for word in {"a", "list.csv"} & {*step.words} - {*step.outputs}]
            (self.folder / name).write_text(" ".join([step.words[0], *inputs]))
        return 10 * ("fail" in step.words) + 3 * ("break" in step.words)


def ran(folder: Path, *steps: Step, **how: bool) -> dict[str, str]:
    return {each.name: each.status for each in Written(steps, folder=folder, state=folder / "s.json").run(**how)}


@pytest.fixture
def steps(tmp_path: Path) -> list[Step]:
    write_images(tmp_path / "images", count=2)
    (tmp_path / "list.csv").write_text("image,mos")
    first = Step("first", ("train", "csv:list.csv", "list.csv", "-o", "a"), ("a",))
    return [first, Step("second", ("harden", "a", "-o", "b"), ("b",)), Step("third", ("evaluate", "b"))]


def test_nothing_is_done_twice_and_what_has_changed_again(steps: list[Step], tmp_path: Path) -> None:
    assert set(ran(tmp_path, *steps).values()) == {"done"}
    assert set(ran(tmp_path, *steps).values()) == {"unchanged"}
    changed = Step("second", ("harden", "a", "--epochs", "9", "-o", "b"), ("b",))
    assert ran(tmp_path, steps[0], changed, steps[2]) == {"first": "unchanged", "second": "done", "third": "unchanged"}
    (tmp_path / "list.csv").write_text("image,mos,split")
    assert ran(tmp_path, steps[0], changed, steps[2], dry=True)["first"] == "would run"
    assert set(ran(tmp_path, steps[0], changed, steps[2]).values()) == {"done"}
    (tmp_path / "images" / "000.png").write_bytes(b"other")
    assert ran(tmp_path, steps[0], changed, steps[2])["first"] == "done"
    (tmp_path / "b").unlink()
    assert ran(tmp_path, steps[0], changed, steps[2]) == {"first": "unchanged", "second": "done", "third": "unchanged"}
    assert set(ran(tmp_path, *steps, force=True).values()) == {"done"}


def test_the_first_step_that_fails_ends_it_and_is_run_again(steps: list[Step], tmp_path: Path) -> None:
    broken = Step("second", ("evaluate", "a", "break"))
    assert ran(tmp_path, steps[0], broken, steps[2]) == {"first": "done", "second": "failed"}
    assert ran(tmp_path, steps[0], broken, steps[2]) == {"first": "unchanged", "second": "failed"}


def test_a_requirement_that_did_not_hold_is_tried_again_once_something_has_changed(
    steps: list[Step], tmp_path: Path
) -> None:
    def codes(gate: Step, **how: bool) -> tuple[dict[str, int], int]:
        pipeline = Written([steps[0], gate, steps[1]], folder=tmp_path, state=tmp_path / "s.json")
        return {each.name: each.exit_code for each in pipeline.run(**how)}, len(getattr(pipeline, "called", []))

    gate = Step("gate", ("evaluate", "a", "fail"))
    failing = {"first": 0, "gate": 10}
    assert codes(gate) == (failing, 2)
    assert codes(gate) == (failing, 0)
    assert codes(gate, dry=True) == (failing, 0)
    assert codes(gate, force=True) == (failing, 2)
    (tmp_path / "a").write_text("another model")
    assert codes(gate) == (failing, 1)  # the model is made again, and is the same
    gate = Step("gate", ("evaluate", "a", "fail", "--limit", "9"))
    assert codes(gate) == (failing, 1)
    assert codes(Step("gate", ("evaluate", "a", "hold"))) == ({"first": 0, "gate": 0, "second": 0}, 2)


def test_settings_that_a_step_refuses_are_tried_once_a_run(steps: list[Step], tmp_path: Path) -> None:
    class Refusing(Written):
        def _call(self, step: Step, *, quiet: bool) -> int:
            super()._call(step, quiet=quiet)
            return 6

    for _ in range(2):
        pipeline = Refusing([replace(steps[0], resumes=True)], folder=tmp_path, state=tmp_path / "s.json")
        assert [each.exit_code for each in pipeline.run()] == [6]
        assert pipeline.called == [steps[0].words]


def test_the_dataset_that_the_environment_names_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"train": {"arch": "net", "output": "b"}, "inspect": {"model": "b"}}

    def statuses() -> list[str]:
        return list(ran(tmp_path, *read_steps(tables, "p.toml")).values())

    write_images(tmp_path / "koniq", count=2)
    monkeypatch.setenv("IQA_ARMOR_KONIQ10K", str(tmp_path / "koniq"))
    assert statuses() == ["done", "done"]
    assert statuses() == ["unchanged", "unchanged"]
    (tmp_path / "koniq" / "000.png").write_bytes(b"other")
    assert statuses() == ["done", "unchanged"]
    monkeypatch.setenv("IQA_ARMOR_KONIQ10K", str(tmp_path / "elsewhere"))
    assert statuses() == ["done", "unchanged"]
    tables["train"]["data"] = "synthetic"
    assert statuses() == ["done", "unchanged"]
    monkeypatch.delenv("IQA_ARMOR_KONIQ10K")
    assert statuses() == ["unchanged", "unchanged"]


@pytest.mark.parametrize("made", ["scores.csv", "images/attacked.png", "h-{seed}.txt"])
@pytest.mark.parametrize("data", ["csv:list.csv", "folder:.", "own.py:opened:list.csv"])
def test_what_steps_and_others_write_beside_the_data_is_no_change_of_it(data: str, made: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", count=2)
    (tmp_path / "list.csv").write_text("image,mos\n000.png,1\n")
    steps = [Step("first", ("train", data, "-o", "a"), ("a",)), Step("last", ("evaluate", data, made), (made,))]
    for status in ("done", "unchanged"):
        assert set(ran(tmp_path, *steps).values()) == {status}
    for file in tmp_path.rglob("*"):
        file.touch()
    assert set(ran(tmp_path, *steps).values()) == {"unchanged"}
    written = tmp_path / made.replace("{seed}", "0")
    written.write_text("other")
    assert ran(tmp_path, *steps) == {"first": "unchanged", "last": "done"}
    written.unlink()
    assert ran(tmp_path, *steps) == {"first": "unchanged", "last": "done"}
    (tmp_path / "images" / "001.png").write_bytes(b"not listed")
    assert set(ran(tmp_path, *steps).values()) == {"done" if "folder" in data else "unchanged"}
    (tmp_path / "images" / "000.png").write_bytes(b"listed")
    assert set(ran(tmp_path, *steps).values()) == {"done"}


def test_a_dry_run_names_what_follows_from_what_would_run(steps: list[Step], tmp_path: Path) -> None:
    ran(tmp_path, *steps)
    other = Step("other", ("inspect", "list.csv"))
    ran(tmp_path, *steps, other)
    changed = Step("first", (*steps[0].words, "--epochs", "9"), ("a",))
    would = dict.fromkeys(("first", "second", "third"), "would run")
    assert ran(tmp_path, changed, *steps[1:], other, dry=True) == {**would, "other": "unchanged"}


@pytest.mark.parametrize("kept", [True, False], ids=["its own state", "of another run"])
def test_a_step_that_was_stopped_goes_on(kept: bool, steps: list[Step], tmp_path: Path) -> None:
    class Stopped(Written):
        def _call(self, step: Step, *, quiet: bool) -> int:
            super()._call(step, quiet=quiet)
            if self.how == "stopped":
                raise KeyboardInterrupt
            return 6 if "--resume" in step.words and not kept else 0

    def called(how: str, *steps: Step) -> list[tuple[str, ...]]:
        pipeline = Stopped(steps, folder=tmp_path, state=tmp_path / "s.json")
        pipeline.how = how
        with suppress(KeyboardInterrupt):
            assert {each.status for each in pipeline.run()} == {"done"}
        return pipeline.called

    first = replace(steps[0], resumes=True)
    again, on = [first.words], [(*first.words, "--resume")]
    assert called("stopped", first) == again
    changed = replace(first, words=(*first.words, "--epochs", "9"))
    assert called("stopped", changed) == [changed.words]
    assert called("done", changed) == [(*changed.words, "--resume")] + ([] if kept else [changed.words])
    assert called("stopped", first) == again
    assert called("done", first) == on + ([] if kept else again)


def test_training_goes_on_where_one_model_comes_of_it() -> None:
    tables = {"train": {"arch": "a", "output": "b"}, "harden": {"model": "b", "output": "c"}}
    assert [step.resumes for step in read_steps(tables, "p.toml")] == [True, True]
    tables["harden"] |= {"seeds": 2}
    assert [step.resumes for step in read_steps(tables, "p.toml")] == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[hardne]\nmodel = 'x'", "[hardne] is no command; known are"),
        ("[train]\nmodel = 'x'\noutput = 'y'", "there is no option 'model'; did you mean 'arch'?"),
        ("[harden]\nmodel = 'x'\noutput = 'y'\nepocs = 3", "there is no option 'epocs'; did you mean 'epochs'?"),
        ("[harden]\noutput = 'y'", "[harden]: model is missing"),
        ("[harden]\nmodel = 'x'", "[harden]: output is missing"),
        ("dat = 'x'\n[harden]\nmodel = 'x'\noutput = 'y'", "no command has the option 'dat'"),
        ("data = 'x'", "has no table"),
        ("[run]\npipeline = 'x'", "[run] is no command"),
    ],
)
def test_a_wrong_pipeline_is_refused_before_anything_is_run(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    done = CliRunner().invoke(app, ["run", str(tmp_path / "p.toml")])
    assert done.exit_code == 6
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p.toml"]


def test_a_pipeline_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(tmp_path / "none.toml")])
    assert (done.exit_code, f"no pipeline file {tmp_path / 'none.toml'}" in done.stderr) == (6, True)


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_a_command_that_writes_no_file_needs_no_output(command: str) -> None:
    models = {"models": ["m.pt"]} if command == "bench" else {"model": "m.pt"}
    (step,) = read_steps({command: models}, "p.toml")
    assert step.words[:2] == (command, "m.pt")
    with pytest.raises(RecipeError, match="no option 'output'"):
        list(read_steps({command: {**models, "output": "x"}}, "p.toml"))


def test_the_example_becomes_commands_that_exist() -> None:
    steps = {step.name: step for step in read_steps(read_recipe(EXAMPLE), "x")}
    gate = steps["gate"].words
    assert gate[:2] == ("evaluate", "hardened.safetensors")
    assert gate.count("--require") == 2
    assert {word for step in steps.values() for word in step.words if "csv:" in word} == {"csv:labels.csv"}
    for step in steps.values():
        done = CliRunner().invoke(app, [*step.words, "--help-all"])
        assert done.exit_code == 0


def test_commands_are_run_and_a_gate_that_does_not_hold_gives_its_exit_code(tmp_path: Path) -> None:
    write_images(tmp_path / "images", count=8)
    (tmp_path / "p.toml").write_text(
        f"models = ['{MODEL}']\n[gate]\ncommand = 'evaluate'\ndata = 'csv:images/labels.csv'\nattack = ['pgd1']\n"
        "epsilon = [4]\nlimit = 2\ndevice = 'cpu'\nreport = 'r.html'\nrequire = ['srocc >= -1']\n"
    )
    told = [CliRunner().invoke(app, ["run", str(tmp_path / "p.toml"), "--json"]) for _ in range(2)]
    assert [json.loads(each.stdout)["steps"][0]["status"] for each in told] == ["done", "unchanged"]
    assert (tmp_path / "r.html").stat().st_size > 1000
    (tmp_path / "p.toml").write_text((tmp_path / "p.toml").read_text().replace(">= -1", ">= 2"))
    assert CliRunner().invoke(app, ["run", str(tmp_path / "p.toml")]).exit_code == 10
