"""The whole jobs: open a model, harden it, train one, evaluate or time several."""

from iqa_armor.pipeline.benchmark import Benchmark, BenchSettings, benchmark
from iqa_armor.pipeline.fitting import Options
from iqa_armor.pipeline.hardening import Hardened, harden, plan
from iqa_armor.pipeline.inspection import Inspection, inspect_model
from iqa_armor.pipeline.loading import Opening, load_model, new_model
from iqa_armor.pipeline.scoring import score_files
from iqa_armor.pipeline.supervised import Trained, train
from iqa_armor.training import is_main_process

__all__ = [
    "BenchSettings",
    "Benchmark",
    "Hardened",
    "Inspection",
    "Opening",
    "Options",
    "Trained",
    "benchmark",
    "harden",
    "inspect_model",
    "is_main_process",
    "load_model",
    "new_model",
    "plan",
    "score_files",
    "train",
]
