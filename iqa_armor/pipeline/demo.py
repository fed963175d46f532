"""The main job on embedded material: the shipped network, generated images."""

from pathlib import Path

import torch

from iqa_armor.data.specs import open_dataset
from iqa_armor.evaluation.evaluation import Evaluation, evaluate
from iqa_armor.evaluation.settings import EvaluationSettings
from iqa_armor.machine import laid_channels_last
from iqa_armor.pipeline.fitting import RunOptions
from iqa_armor.pipeline.harden import harden
from iqa_armor.pipeline.hardened import Hardened
from iqa_armor.pipeline.load import load_model
from iqa_armor.progress import Progress
from iqa_armor.recipe import Recipe, read_recipe

DEMO_MODEL = Path(__file__).parents[1] / "assets" / "demo.safetensors"
# Scenes that the shipped network has not seen: it was trained with another seed.
# Small images, one attack at two budgets and the ranking at the same, for time.
SETTINGS = EvaluationSettings(
    attacks=("pgd8",), epsilons=(1 / 255, 4 / 255), ranking_epsilons=(1 / 255, 4 / 255), limit=96
)
DEMO_DATA = "synthetic:scenes=150,size=128x160,seed=2026"


@laid_channels_last()  # in which so small a network is faster
def run_demo(recipe: Recipe, *, device: torch.device, progress: Progress) -> tuple[Hardened, Evaluation]:
    """Harden the shipped network and evaluate it beside the original and a control.

    The control is fine-tuned as long as the hardened model, without block, pruning, views and defense, so that what
    surgery and defense bought is told apart from what fine-tuning bought. All are evaluated on scenes kept aside.
    """
    base = load_model(DEMO_MODEL)
    base.name = "demo"
    dataset = open_dataset(DEMO_DATA, progress=progress)
    control_recipe = recipe.model_copy(update={**read_recipe("control"), "views": 1})
    control = harden(base, dataset, control_recipe, options=_options("control", device, progress))
    hardened = harden(base, dataset, recipe, options=_options("hardened", device, progress))
    control.model.name, hardened.model.name = "control", "hardened"
    models = [base, control.model, hardened.model]
    return hardened, evaluate(models, [dataset], baseline=0, settings=SETTINGS, device=device, progress=progress)


def _options(name: str, device: torch.device, progress: Progress) -> RunOptions:
    def told(task: str, done: int, total: int, detail: str = "") -> None:
        progress(f"{name}: {task}", done, total, detail)

    return RunOptions(device=device, progress=told)
