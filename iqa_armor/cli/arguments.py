"""What several commands are given besides the settings of their work."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field

from iqa_armor import machine
from iqa_armor.cli.console import say, stderr
from iqa_armor.cli.options import USUAL
from iqa_armor.errors import UsageError
from iqa_armor.files import claiming
from iqa_armor.pipeline.settings import Opening
from iqa_armor.settings import CallSettings, Flag, OneOf, Seed, SettingsModel

if TYPE_CHECKING:
    import torch

    from iqa_armor.data.base import Dataset
    from iqa_armor.models.base import QualityModel
    from iqa_armor.progress import Progress

SPECS = OneOf("iqa_armor.data:DATASETS", is_checked=False)
DATA = Flag(panel=USUAL)
OWN = ("package.module:NAME or file.py:NAME",)
PURIFIED = OneOf("iqa_armor.defenses.purifiers:PURIFIERS", OWN, is_checked=False)
SMOOTHED = OneOf("iqa_armor.defenses.smoothing:SMOOTHERS", OWN, is_checked=False)


class Machine(CallSettings):
    """What this machine computes with; threads are prepared at once, since torch must not be imported before."""

    device: str = "auto"
    threads: int | None = Field(None, ge=1)
    channels_last: bool = False
    max_memory: str | None = None

    def model_post_init(self, _: Any) -> None:
        machine.prepare_threads(self.threads)
        machine.prepare_memory(self.max_memory)
        machine.prepare_layout(channels_last=self.channels_last)

    def chosen(self) -> torch.device:
        return machine.choose_device(self.device)


class Labels(CallSettings):
    """Which dataset is meant, and how its label file names images and scores."""

    data: Annotated[str | None, SPECS, DATA] = None
    columns: str = ""
    image_root: Annotated[Path | None, Flag(kind=str)] = None

    def open(self, spec: str | None = None, *, seed: int = 0, progress: Progress) -> Dataset:
        """Return a dataset, else KonIQ-10k at the place that the environment names; say how its labels were read."""
        from iqa_armor.data.specs import default_spec, open_dataset

        spec = spec or self.data or default_spec()
        dataset = open_dataset(spec, seed=seed, progress=progress, columns=self.columns, image_root=self.image_root)
        say(*dataset.remarks, to=stderr)
        return dataset


class Writing(CallSettings):
    """Whether files are replaced, or none is written."""

    overwrite: Annotated[bool, Flag(panel=USUAL)] = False
    dry_run: Annotated[bool, Flag(panel=USUAL)] = False

    @contextmanager
    def claimed(
        self,
        target: Path | None,
        *,
        source: Path | None = None,
        suffix: str = "",
        is_folder: bool = False,
        files: Sequence[str] = (),
        resumes: bool = False,  # and so replaces what is there
        is_shared: bool = False,  # among the processes that a launcher started; the first one holds it
    ) -> Iterator[None]:
        """Keep an output for the block, if one is to be written: checked before any work, and no other process's."""
        if not is_shared:
            machine.require_one_process()
        if target is None or self.dry_run or not machine.is_main_process():
            yield
            return
        if suffix and target.suffix != suffix:
            raise UsageError(f"the result is a {suffix} file; name it {target.with_suffix(suffix)}")
        if source is not None and source.exists() and target.exists() and target.samefile(source):
            raise UsageError(f"{target} is the model itself; name another file with -o")
        with claiming(target, overwrite=self.overwrite or resumes, is_folder=is_folder, files=files):
            yield


class ModelCall(Opening, Machine, Writing):
    """What commands are told of model files, of this machine, and of what they write."""

    def load(self, model: Path) -> QualityModel:
        from iqa_armor.pipeline.load import load_model

        return load_model(model, opening=self)


class DataCall(Labels, ModelCall):
    """The same, and of which dataset is meant."""


class FitCall(DataCall):
    """The same, and who else is told how a fit goes."""

    log_to: str | None = None


class Draws(SettingsModel):
    """What is drawn at random."""

    seed: Seed = 0


class Defenses(SettingsModel):
    """What stands around a model while it is scored or attacked."""

    purify: Annotated[tuple[str, ...], PURIFIED] = ()
    smooth: Annotated[tuple[str, ...], SMOOTHED] = ()
    threat: Literal["adaptive", "bare"] = "adaptive"

    def around(self, model: QualityModel) -> QualityModel:
        """Return a model behind these defenses, itself without any; several smoothers are a UsageError."""
        from iqa_armor.pipeline.load import defended_model

        if len(self.smooth) > 1:
            raise UsageError(f"--smooth: scores can be smoothed in one way only, got {', '.join(self.smooth)}")
        return defended_model(model, self.purify, next(iter(self.smooth), None), threat=self.threat)


def output_option(metavar: str, *, shown: str = "") -> Any:
    help_text = "File or folder to write." + (f" \\[default: {shown}]" if shown else "")
    return typer.Option("-o", "--out", metavar=metavar, help=help_text)


MODEL = (
    "An iqa-armor file or a checkpoint; hf:owner/name is one on the hub. A checkpoint holds a state dict or, with "
    "--trust-pickle, a pickled module."
)
ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL)]
ModelsArg = Annotated[list[Path], typer.Argument(metavar="MODEL…", help="Model files.")]
ImagesArg = Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files, or folders of them.")]
COMPARED = "The model that the others are compared with; measured as well."
BaselineOpt = Annotated[Path | None, typer.Option(metavar="MODEL", help=COMPARED)]
ReportOpt = Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page that needs no network.")]
UNLABELLED = "Images without scores, for --defense teacher; e.g. folder:DIR."
UnlabelledOpt = Annotated[str | None, typer.Option(metavar="SPEC", help=UNLABELLED)]
ResumeOpt = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same command.")]
EACH = "Repeat with seeds from --seed on; {seed} in the name of a file stands for each."
SPREAD = "Figures are means, with their spread."
SeedsOpt = Annotated[int, typer.Option(min=1, metavar="N", help=f"{EACH} {SPREAD}")]
SEED = "{seed}"


def at_seeds(path: Path, seeds: Collection[int]) -> list[Path]:
    """Return the file that each seed writes; a UsageError if all write one."""
    if len(seeds) > 1 and SEED not in str(path):
        named = path.with_name(f"{path.stem}-{SEED}{path.suffix}")
        raise UsageError(f"{path} would be written by each of {len(seeds)} seeds; name it {named}")
    return [Path(str(path).replace(SEED, str(seed))) for seed in seeds]


def with_baseline(models: list[Path], baseline: Path | None) -> tuple[list[Path], int | None]:
    """Return the models, the baseline among them, and the place of the baseline."""
    if baseline is None:
        return models, None
    return (models, models.index(baseline)) if baseline in models else ([baseline, *models], 0)
