"""The whole jobs: open a model, harden it, train one, attack images, evaluate or time several."""

from iqa_armor.machine import is_main_process
from iqa_armor.pipeline.attack_files import AttackedImage
from iqa_armor.pipeline.attacking import attack_images, build_attacks
from iqa_armor.pipeline.benchmark import Benchmark, BenchSettings, benchmark
from iqa_armor.pipeline.certifying import CertifySettings, certify_files, certify_images
from iqa_armor.pipeline.data_check import DataCheck, check_data
from iqa_armor.pipeline.fitting import Options
from iqa_armor.pipeline.hardening import Hardened, harden, plan
from iqa_armor.pipeline.inspection import Inspection, inspect_model
from iqa_armor.pipeline.loading import Opening, load_model, new_model
from iqa_armor.pipeline.purifying import Threats, TrainedPurifier, train_purifier
from iqa_armor.pipeline.scoring import score_files
from iqa_armor.pipeline.supervised import Trained, train

__all__ = [
    "AttackedImage",
    "BenchSettings",
    "Benchmark",
    "CertifySettings",
    "DataCheck",
    "Hardened",
    "Inspection",
    "Opening",
    "Options",
    "Threats",
    "Trained",
    "TrainedPurifier",
    "attack_images",
    "benchmark",
    "build_attacks",
    "certify_files",
    "certify_images",
    "check_data",
    "harden",
    "inspect_model",
    "is_main_process",
    "load_model",
    "new_model",
    "plan",
    "score_files",
    "train",
    "train_purifier",
]
