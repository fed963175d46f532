"""Outcome of an evaluation as plain values, its JSON, and requirements on it."""

from iqa_armor.results.arithmetic import divide, weighted_mean
from iqa_armor.results.certification import (
    CERTIFICATION_SCHEMA,
    Certification,
    CertifiedImage,
    CertifiedModel,
    MethodFigures,
)
from iqa_armor.results.exhibit import Exhibit, Picture, Points
from iqa_armor.results.figures import (
    AttackDifferences,
    AttackFigures,
    Check,
    DatasetFigures,
    Differences,
    Figures,
    Interval,
    ModelEntry,
    Ratios,
    Scale,
    Timing,
    epsilon_key,
)
from iqa_armor.results.outcome import SCHEMA, DataEntry, Outcome, Settings
from iqa_armor.results.requirements import Failure, Requirement, check, parse_requirement, require_path

__all__ = [
    "CERTIFICATION_SCHEMA",
    "SCHEMA",
    "AttackDifferences",
    "AttackFigures",
    "Certification",
    "CertifiedImage",
    "CertifiedModel",
    "Check",
    "DataEntry",
    "DatasetFigures",
    "Differences",
    "Exhibit",
    "Failure",
    "Figures",
    "Interval",
    "MethodFigures",
    "ModelEntry",
    "Outcome",
    "Picture",
    "Points",
    "Ratios",
    "Requirement",
    "Scale",
    "Settings",
    "Timing",
    "check",
    "divide",
    "epsilon_key",
    "parse_requirement",
    "require_path",
    "weighted_mean",
]
