"""What helps, and what the block adds to training: defenses of several models, over several seeds.

    python examples/evidence.py BASE.safetensors… --data csv:labels.csv -o evidence [--seeds 3] [--only strong,control]

Every model is hardened in every way and evaluated on the reported split beside itself; what lies in the output folder
is not done again, so that the same command goes on where it was interrupted. It prints the table of the means over
seeds and writes it to OUT/evidence.md.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from iqa_armor import evaluate, harden, load_model, open_dataset
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.machine import choose_device
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.recipe import Recipe, read_recipe

STRONG = read_recipe("strong")
PLAIN = read_recipe("control")
BLOCK: dict[str, Any] = {"prune": 0.0, "defense": "none"}
METHODS: dict[str, dict[str, Any]] = {
    "control": PLAIN,
    "control, eight views": {**PLAIN, "views": 8},
    "block, Cayley": {**BLOCK, "backend": "cayley"},
    "block, AOC": {**BLOCK, "backend": "aoc"},
    "block, AOL": {**BLOCK, "backend": "aol"},
    "at": {**PLAIN, "defense": "at"},
    "nt": {**PLAIN, "defense": "nt"},
    "nt-scaled": {**PLAIN, "defense": "nt-scaled"},
    "teacher, one view": {**STRONG, "views": 1},
    "block + strong": {**STRONG, "position": "last"},
    "paper": read_recipe("paper"),
    "default": {},
    "strong": STRONG,
}
COLUMNS = ("SROCC", "worst-case at .5", "at 1", "at 4", "mean", "PGD-8 gain at 1", "at 4", "Auto-PGD and Square at 4")


def main(
    models: list[Path],
    data: Annotated[str, typer.Option(help="Scored images with a training split.")],
    output: Annotated[Path, typer.Option("-o", help="Folder that keeps models and figures.")] = Path("evidence"),
    seeds: Annotated[int, typer.Option(help="Runs of every method.")] = 3,
    only: Annotated[str, typer.Option(help="Methods, separated by commas.")] = ",".join(METHODS),
    epochs: Annotated[int | None, typer.Option(help="Epochs of every method, instead of its own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most images to report on.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
) -> None:
    """Measure every method on every model, and write the table."""
    output.mkdir(parents=True, exist_ok=True)
    rows = [f"| {' | '.join(('model', *COLUMNS))} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for path in models:
        found = [_figures(path, "base", 0, data, output, limit=limit, device=device)]
        rows.append(_row(path.stem, found))
        for name in only.split(","):
            changes = METHODS[name] if epochs is None else {**METHODS[name], "epochs": epochs}
            found = [
                _figures(
                    path, name, seed, data, output, limit=limit, device=device, recipe=Recipe(**changes, seed=seed)
                )
                for seed in range(seeds)
            ]
            rows.append(_row(f"{path.stem} + {name}", found))
    text = "\n".join(rows) + f"\n\nMeans over {seeds} seeds, ± their standard deviation; {data}.\n"
    (output / "evidence.md").write_text(text)
    typer.echo(text)


def _figures(
    path: Path,
    name: str,
    seed: int,
    data: str,
    output: Path,
    *,
    limit: int | None,
    device: str,
    recipe: Recipe | None = None,
) -> list[float]:
    """Return the figures of one method with one seed: those kept in the folder, else computed and kept."""
    kept = output / f"{path.stem}-{name.replace(', ', '-').replace(' ', '')}-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())  # type: ignore[no-any-return]
    typer.echo(f"{path.stem}: {name}, seed {seed}", err=True)
    where, dataset, model = choose_device(device), open_dataset(data), load_model(path)
    if recipe is not None:
        options = RunOptions(device=where, checkpoint=kept.with_suffix(".resume.pt"), resume=True)
        model = harden(model, dataset, recipe, options=options).model
        assert options.checkpoint is not None
        Path(options.checkpoint).unlink(missing_ok=True)
    settings = EvaluationSettings(
        attacks=("pgd8", "auto"),
        epsilons=(1 / 255, 4 / 255),
        ranking_epsilons=tuple(e / 255 for e in (0.5, 1, 4)),
        limit=limit,
    )
    (entry,) = evaluate([model], [dataset], settings=settings, device=where).outcome.models
    worst, gains = entry.worst_case_srocc, entry.attacks["pgd8"].abs_gain
    strongest = entry.attacks["auto"].abs_gain["4"]
    numbers = [
        entry.srocc,
        worst["0.5"],
        worst["1"],
        worst["4"],
        entry.worst_case_srocc_mean,
        gains["1"],
        gains["4"],
        strongest,
    ]
    kept.write_text(json.dumps(numbers))
    return numbers


def _row(name: str, found: list[list[float]]) -> str:
    cells = []
    for values in zip(*found, strict=True):
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(f"{statistics.fmean(values):.2f}{spread}")
    return f"| {' | '.join((name, *cells))} |"


if __name__ == "__main__":
    typer.run(main)
