"""Run the grid of the paper's Tables 1 to 4 on your models and data, and write it beside the paper's own numbers.

    python examples/reproduce_paper.py linearity=Linearity.pth koncept512=KonCept512.pth \
        --data koniq10k:KONIQ --data nips2017:NIPS -o reproduction
    python examples/reproduce_paper.py nima=base.safetensors --data csv:labels.csv --small -o reproduction

Each model is a file that `iqa-armor evaluate` opens, trained on the first dataset already. Every row is fine-tuned for
as long as every other, the control (no surgery, no defense) too; NT and AT are that fine-tuning with their objective
(ours: the paper trains them from the start). The same command continues where it was interrupted, and models, rows or
seeds can be added. It writes `tables.md`, `rows.json` and, per row, the hardened model.

[RA] Meleshin et al., "Robustness as Architecture", arXiv 2506.04951.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from paper_report import write_tables

from iqa_armor import EvaluationSettings, QualityModel, Recipe, evaluate, harden, load_model, open_dataset
from iqa_armor.cli.console import progress, show_messages, stderr, stdout
from iqa_armor.data.base import Dataset
from iqa_armor.errors import ArmorError
from iqa_armor.machine import choose_device
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.inspect import inspect_model
from iqa_armor.recipe import read_recipe

PAPER = read_recipe("paper")
PLAIN = {"position": "none", "prune": 0.0}
# Row → what it changes in the recipe of the full method; the base is not fine-tuned at all.
ROWS: dict[str, dict[str, Any]] = {
    "base": {},
    "control": PLAIN,
    "NT": PLAIN | {"defense": "nt"},
    "AT": PLAIN | {"defense": "at"},
    "SiLU": PLAIN | {"activation": "silu"},
    "pruning alone": {"position": "none"},
    "block alone": {"prune": 0.0},
    "Cayley": {},
    "AOC": {"backend": "aoc"},
    "AOL": {"backend": "aol"},
    "Cayley + NT": {"defense": "nt"},
    "Cayley + AT": {"defense": "at"},
}
SMALL = {"epochs": 3, "limit": 48, "fit_images": 32}
ATTACKS = ("pgd1", "pgd8", "uap", "stadv")


@dataclass(frozen=True)
class Grid:
    """What is run, and where the results go.

    Args:
        datasets: The first one is fitted to; all are evaluated on.
        folder: Of models and results.
        epochs: Of every row's fine-tuning.
        settings: Of the evaluation.
        device: Where to compute.
        report: Receiver of progress.
    """

    datasets: list[Dataset]
    folder: Path
    epochs: int
    settings: EvaluationSettings
    device: torch.device
    report: Callable[..., None]

    def make(self, base: QualityModel, row: str, changes: dict[str, Any], seed: int) -> QualityModel:
        """Return the model of a row, from its file where it has been made; its epochs' seconds are kept beside it."""
        name = f"{base.name} {row}" + (f" seed {seed}" if seed else "")
        path = self.folder / "models" / f"{name.replace(' ', '-')}.safetensors"
        if not path.exists():
            recipe: Recipe = Recipe.read({**PAPER, "epochs": self.epochs, "seed": seed, **changes})
            options = RunOptions(
                device=self.device,
                checkpoint=path.with_suffix(".resume.pt"),
                resume=True,
                progress=lambda task, *rest: self.report(f"{name}: {task}", *rest),
            )
            made = harden(base, self.datasets[0], recipe, options=options)
            seconds = statistics.median(epoch.seconds for epoch in made.fit.epochs if epoch.number)
            path.with_suffix(".json").write_text(json.dumps({"epoch_seconds": seconds}), encoding="utf-8")
            made.save(path)
            path.with_suffix(".resume.pt").unlink(missing_ok=True)
        model = load_model(path)
        model.name = name
        return model

    def judge(self, models: list[QualityModel], baseline: str | None = None) -> dict[str, Any]:
        """Return the evaluation's JSON; what the folder has of it is not computed again."""
        found = evaluate(
            models,
            self.datasets,
            baseline=baseline,
            settings=self.settings,
            output=self.folder / "scores",
            device=self.device,
            progress=self.report,
        )
        plain: dict[str, Any] = json.loads(found.outcome.to_json())
        return plain


def main(
    models: Annotated[list[str], typer.Argument(metavar="NAME=FILE[,ARCH]…", help="Trained models by name.")],
    data: Annotated[list[str], typer.Option(metavar="SPEC", help="Datasets; the first one is fitted to.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the results.")] = Path("reproduction"),
    rows: Annotated[str, typer.Option(metavar="ROW,…", help=f"Among {', '.join(ROWS)}.")] = ",".join(ROWS),
    cuts: Annotated[str, typer.Option(metavar="N,…", help="Positions of Table 1 beside the last, or all.")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every row but the base.")] = 1,
    small: Annotated[bool, typer.Option("--small", help="3 epochs, 48 images per dataset, UAP of 32.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="[default: 5]")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Most evaluated images per dataset.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass of the evaluation.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Run the grid and write its tables."""
    show_messages()
    try:
        chosen = {row: ROWS[row] for row in rows.split(",") if row}
    except KeyError as error:
        raise typer.BadParameter(f"no row {error}; known are {', '.join(ROWS)}") from error
    (output / "models").mkdir(parents=True, exist_ok=True)
    settings = EvaluationSettings(
        attacks=ATTACKS,
        limit=limit or (SMALL["limit"] if small else None),
        fit_images=SMALL["fit_images"] if small else 64,
        batch_size=batch_size,
    )
    try:
        with progress() as bars:
            datasets = [open_dataset(spec) for spec in data]
            grid = Grid(
                datasets, output, epochs or (SMALL["epochs"] if small else 5), settings, choose_device(device), bars
            )
            results = [run_model(grid, word, chosen, cuts, seeds) for word in models]
    except ArmorError as error:
        stderr.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    results = kept_results(output / "rows.json", results)
    (output / "rows.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (output / "tables.md").write_text(write_tables(results), encoding="utf-8")
    stdout.print(f"wrote {output / 'tables.md'}")


def run_model(grid: Grid, word: str, rows: dict[str, dict[str, Any]], cuts: str, seeds: int) -> dict[str, Any]:
    """Make and evaluate all rows of one model; return them with the figures of `evaluate`.

    Args:
        grid: What is run.
        word: NAME=FILE or NAME=FILE,ARCH.
        rows: Some of `ROWS`.
        cuts: Numbers of the cuts of Table 1, separated by commas, or "all".
        seeds: Runs of every row but the base.
    """
    name, _, place = word.partition("=")
    file, _, arch = place.partition(",")
    base = load_model(file, arch=arch or None)
    base.name = name
    found = [cut for cut in inspect_model(base).cuts if not cut.branch]
    numbers = range(1, len(found)) if cuts == "all" else [int(number) for number in cuts.split(",") if number]
    changes = rows | {f"block at cut {n}": {"prune": 0.0, "position": str(n)} for n in numbers}
    entries: list[dict[str, Any]] = []
    for seed in range(seeds):
        made = [base] if "base" in changes else []
        for row, change in changes.items():
            if row == "base":
                continue
            made.append(grid.make(base, row, change, seed))
            grid.judge(made[-1:])
        control = next((model.name for model in made if " control" in model.name), None)
        judged = grid.judge(made, baseline=control)
        entries += [entry | {"row": row_of(entry["name"], name), "seed": seed} for entry in judged["models"]]
        settings = {"data": judged["data"], "settings": judged["settings"], "versions": judged["versions"]}
    for entry in entries:
        kept = grid.folder / "models" / f"{entry['name'].replace(' ', '-')}.json"
        entry["epoch_seconds"] = (
            json.loads(kept.read_text(encoding="utf-8"))["epoch_seconds"] if kept.exists() else None
        )
    maps = {f"block at cut {n}": "{}×{}×{}".format(found[n - 1].channels, *found[n - 1].size) for n in numbers}
    if found:
        maps["block alone"] = "{}×{}×{}".format(found[-1].channels, *found[-1].size)
    return {"name": name, "maps": maps, "rows": entries, "epochs": grid.epochs, **settings}


def kept_results(path: Path, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results of models that an earlier call left in a file, then those of this one."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    names = [result["name"] for result in results]
    return [result for result in earlier if result["name"] not in names] + results


def row_of(entry: str, model: str) -> str:
    """Return the row that an entry's name speaks of."""
    return entry.removeprefix(model).strip().partition(" seed ")[0] or "base"


if __name__ == "__main__":
    typer.run(main)
