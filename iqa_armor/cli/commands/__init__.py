"""The commands, by name."""

from collections.abc import Callable
from typing import Any

import typer

from iqa_armor.cli.commands.attack import attack
from iqa_armor.cli.commands.bench import bench
from iqa_armor.cli.commands.certify import certify
from iqa_armor.cli.commands.data import data
from iqa_armor.cli.commands.demo import demo
from iqa_armor.cli.commands.evaluate import evaluate
from iqa_armor.cli.commands.export import export
from iqa_armor.cli.commands.harden import harden
from iqa_armor.cli.commands.inspect import inspect
from iqa_armor.cli.commands.score import score
from iqa_armor.cli.commands.train import train
from iqa_armor.cli.commands.train_purifier import train_purifier

COMMANDS: dict[str, Callable[..., Any]] = {
    "inspect": inspect,
    "harden": harden,
    "evaluate": evaluate,
    "score": score,
    "attack": attack,
    "certify": certify,
    "train": train,
    "train-purifier": train_purifier,
    "bench": bench,
    "export": export,
    "demo": demo,
}
GROUPS: dict[str, typer.Typer] = {"data": data}
