"""What helps, and what the block adds to training: defenses of several models, over several seeds.

    python examples/evidence.py BASE.safetensors… --data csv:labels.csv -o evidence [--only strong,control]

Every model is hardened in every way and evaluated on the reported split beside itself; what lies in the output folder
is not done again, so that the same command goes on where it was interrupted. It prints the table of the means over
seeds and writes it to OUT/evidence.md, with two plots of each model: OUT/MODEL-ranking.svg, clean against worst-case
SROCC, and OUT/MODEL-budgets.svg, worst-case SROCC by budget.
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure

from iqa_armor import evaluate, harden, load_model, open_dataset, save_model
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.machine import choose_device
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.recipe import Recipe, read_recipe

STRONG = read_recipe("strong")
PLAIN = read_recipe("control")
BLOCK: dict[str, Any] = {"prune": 0.0, "defense": "none"}
METHODS: dict[str, dict[str, Any]] = {
    "control": PLAIN,
    "control with eight views": {**PLAIN, "views": 8},
    "Cayley block": {**BLOCK, "backend": "cayley"},
    "AOC block": {**BLOCK, "backend": "aoc"},
    "AOL block": {**BLOCK, "backend": "aol"},
    "at": {**PLAIN, "defense": "at"},
    "nt": {**PLAIN, "defense": "nt"},
    "nt-scaled": {**PLAIN, "defense": "nt-scaled"},
    "teacher with one view": {**STRONG, "views": 1},
    "block and strong": {**STRONG, "position": "last"},
    "paper": read_recipe("paper"),
    "default": {},
    "strong": STRONG,
}
BUDGETS = (0.5, 1, 4)  # of the attack on the ranking, in 1/255


def main(
    models: list[Path],
    data: Annotated[str, typer.Option(help="Scored images with a training split.")],
    output: Annotated[Path, typer.Option("-o", help="Folder that keeps models and figures.")] = Path("evidence"),
    seeds: Annotated[str, typer.Option(help="A run of every method with each of these seeds.")] = "0,1,2",
    only: Annotated[str, typer.Option(help="Methods, separated by commas.")] = ",".join(METHODS),
    attacks: Annotated[str, typer.Option(help="Attacks, separated by commas.")] = "pgd8,auto",
    epochs: Annotated[int | None, typer.Option(help="Epochs of every method, instead of its own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most images to report on.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
) -> None:
    """Measure every method on every model, and write the table and the plots."""
    output.mkdir(parents=True, exist_ok=True)
    settings = EvaluationSettings(
        attacks=tuple(attacks.split(",")),
        epsilons=(1 / 255, 4 / 255),
        ranking_epsilons=tuple(budget / 255 for budget in BUDGETS),
        limit=limit,
    )
    measure = partial(_figures, data=data, output=output, settings=settings, device=choose_device(device))
    rows: list[str] = []
    for path in models:
        found = {"base": [measure(path, "base", Recipe())]}
        for name in only.split(","):
            changes = METHODS[name] if epochs is None else {**METHODS[name], "epochs": epochs}
            found[name] = [measure(path, name, Recipe(**changes, seed=int(seed))) for seed in seeds.split(",")]
        rows += [_row(path.stem if name == "base" else f"{path.stem} + {name}", runs) for name, runs in found.items()]
        _draw(found, output / path.stem)
    columns = ("model", *found["base"][0])
    text = "\n".join((f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows))
    text += f"\n\nMeans over seeds {seeds}, ± their standard deviation; {data}.\n"
    (output / "evidence.md").write_text(text)
    typer.echo(text)


def _figures(
    path: Path,
    name: str,
    recipe: Recipe,
    *,
    data: str,
    output: Path,
    settings: EvaluationSettings,
    device: torch.device,
) -> dict[str, float]:
    """Return the figures of one method with one seed: those kept in the folder, else computed and kept."""
    kept = output / f"{path.stem}-{name.replace(' ', '-')}-{recipe.seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())  # type: ignore[no-any-return]
    typer.echo(f"{path.stem}: {name}, seed {recipe.seed}", err=True)
    dataset, model = open_dataset(data), load_model(path)
    if name != "base":
        unfinished = kept.with_suffix(".resume.pt")
        model = harden(model, dataset, recipe, options=RunOptions(device, checkpoint=unfinished, resume=True)).model
        unfinished.unlink(missing_ok=True)
        save_model(model, kept.with_suffix(".safetensors"), recipe=recipe.model_dump(), provenance={})
    (entry,) = evaluate([model], [dataset], settings=settings, device=device).outcome.models
    numbers = {"SROCC": entry.srocc}
    numbers |= {f"worst-case at {budget:g}": entry.worst_case_srocc[f"{budget:g}"] for budget in BUDGETS}
    numbers["mean"] = entry.worst_case_srocc_mean
    for attack, figures in entry.attacks.items():
        numbers |= {f"{attack} gain at {budget}": gain for budget, gain in figures.abs_gain.items()}
    kept.write_text(json.dumps(numbers))
    return numbers


def _row(name: str, found: list[dict[str, float]]) -> str:
    cells = []
    for column in found[0]:
        values = [numbers[column] for numbers in found]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(f"{statistics.fmean(values):.3f}{spread}")
    return f"| {' | '.join((name, *cells))} |"


def _draw(found: dict[str, list[dict[str, float]]], beside: Path) -> None:
    """Draw clean against worst-case SROCC, a mark each run, and mean worst-case SROCC by budget."""
    points, curves = Figure(figsize=(7, 4.5), layout="constrained"), Figure(figsize=(7, 4.5), layout="constrained")
    plane, lines = points.subplots(), curves.subplots()
    for number, (name, runs) in enumerate(found.items()):
        look = {"label": name, "color": f"C{number % 10}", "marker": "os^Dv"[number // 10 % 5]}
        plane.plot([run["SROCC"] for run in runs], [run["worst-case at 1"] for run in runs], linestyle="none", **look)
        heights = [statistics.fmean(run[f"worst-case at {budget:g}"] for run in runs) for budget in BUDGETS]
        lines.plot([0, *BUDGETS], [statistics.fmean(run["SROCC"] for run in runs), *heights], **look)
    plane.set(xlabel="SROCC on clean images", ylabel="worst-case SROCC at 1/255")
    lines.set(xlabel="budget of the attack on the ranking, in 1/255", ylabel="worst-case SROCC")
    for figure, axes, ending in ((points, plane, "ranking"), (curves, lines, "budgets")):
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(beside.with_name(f"{beside.name}-{ending}.svg"))


if __name__ == "__main__":
    typer.run(main)
