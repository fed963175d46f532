"""What several commands are given besides the settings of their work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer
from pydantic import Field

from iqa_armor.data import DATASETS
from iqa_armor.defenses.purifiers import PURIFIERS
from iqa_armor.defenses.smoothing import SMOOTHERS
from iqa_armor.errors import UsageError
from iqa_armor.machine import choose_device, prepare_threads
from iqa_armor.settings import Flag, Seed, SettingsModel

if TYPE_CHECKING:
    import torch

    from iqa_armor.data.base import Dataset
    from iqa_armor.progress import Progress


OWN = "package.module:NAME or file.py:NAME"


class Machine(SettingsModel):
    """What this machine computes with; threads are prepared at once, since torch must not be imported before."""

    in_recipes: ClassVar[bool] = False

    device: Annotated[str, Flag(metavar="auto|cpu|cuda|cuda:N")] = Field("auto", description="Where to compute.")
    threads: Annotated[int | None, Flag(shown="as many as this process may keep busy")] = Field(
        None, ge=1, description="Processor threads of one operation."
    )

    def model_post_init(self, _: Any) -> None:
        """Prepare the threads."""
        prepare_threads(self.threads)

    def chosen(self) -> torch.device:
        """Return the device, or raise a UsageError if there is none such."""
        return choose_device(self.device)


class Draws(SettingsModel):
    """What is drawn at random."""

    seed: Seed = 0


class Defenses(SettingsModel):
    """What stands around a model while it is scored or attacked."""

    purify: Annotated[tuple[str, ...], Flag(metavar="NAME[:PARAMS][+…]")] = Field(
        (),
        description=f"Purify images first: {PURIFIERS.summary()}, {OWN}, with settings as in jpeg:quality=60; + chains "
        "them. May be repeated: evaluate compares them, other commands apply them in order.",
    )
    smooth: Annotated[tuple[str, ...], Flag(metavar="NAME[:PARAMS]")] = Field(
        (),
        description=f"Smooth scores: {SMOOTHERS.summary()}, {OWN}, with settings as in ms:samples=100,sigma=0.12. "
        "evaluate compares several, other commands take one.",
    )
    threat: Literal["adaptive", "bare"] = Field(
        "adaptive", description="Whether attacks know the defenses, or fool the bare model, or both one by one."
    )

    @property
    def smoother(self) -> str | None:
        """The one smoother; several are a UsageError."""
        if len(self.smooth) > 1:
            raise UsageError(f"--smooth: scores can be smoothed in one way only, got {', '.join(self.smooth)}")
        return self.smooth[0] if self.smooth else None


def output_option(metavar: str, *, shown: str = "") -> Any:
    """Return the option that names what a command writes."""
    help_text = "File or folder to write." + (f" \\[default: {shown}]" if shown else "")
    return typer.Option("-o", "--output", metavar=metavar, help=help_text)


MODEL = "An iqa-armor file, a checkpoint that holds a state dict or, with --trust-pickle, a pickled module; told by content."
ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL)]
ModelsArg = Annotated[list[Path], typer.Argument(metavar="MODEL…", help="Model files.")]
ImagesArg = Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files, or folders of them.")]
COMPARED = "The model that the others are compared with; measured as well."
BaselineOpt = Annotated[Path | None, typer.Option(metavar="MODEL", help=COMPARED)]
DATA = typer.Option(
    "--data",
    metavar="SPEC",
    help="NAME:PATH, such as csv:labels.csv (columns image, mos, optional split) or folder:DIR; evaluate takes "
    f"several. Names are {DATASETS.summary()}. \\[default: koniq10k: at the folder named by IQA_ARMOR_KONIQ10K]",
)
DataOpt = Annotated[str | None, DATA]
SeveralDataOpt = Annotated[list[str] | None, DATA]
ReportOpt = Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page that needs no network.")]
ResumeOpt = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same command.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout and nothing else there.")]


def with_baseline(models: list[Path], baseline: Path | None) -> tuple[list[Path], int | None]:
    """Return the models, the baseline among them, and the place of the baseline."""
    if baseline is None or baseline in models:
        return models, None if baseline is None else models.index(baseline)
    return [baseline, *models], 0


def open_data(spec: str | None, *, seed: int, progress: Progress) -> Dataset:
    """Return the named dataset, or KonIQ-10k at the place that the environment names."""
    from iqa_armor.data.specs import default_spec, open_dataset

    return open_dataset(spec or default_spec(), seed=seed, progress=progress)


def require_target(target: Path, source: Path, *, suffix: str | None = None) -> None:
    """Refuse an output that could not be written, or would replace the input, before any work is done."""
    from iqa_armor.files import require_writable

    if suffix is not None and target.suffix != suffix:
        raise UsageError(f"the result is a {suffix} file; name it {target.with_suffix(suffix)}")
    if source.exists() and target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the model itself; name another file with -o")
    require_writable(target)
