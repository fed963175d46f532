"""Metrics of agreement with opinion, of robustness, of image fidelity, of purifiers, and their uncertainty."""

from iqa_armor.metrics.bootstrap import (
    Interval,
    bootstrap_statistic,
    draw_resamples,
    paired_difference,
    percentile_interval,
)
from iqa_armor.metrics.correlation import average_ranks, order_codes, plcc, plcc_logistic, srocc
from iqa_armor.metrics.fidelity import l2, linf, psnr, ssim
from iqa_armor.metrics.purification import gain_score, quality_score
from iqa_armor.metrics.robustness import abs_gain, abs_gain_std, abs_gain_unsigned, auc, r_score

__all__ = [
    "Interval",
    "abs_gain",
    "abs_gain_std",
    "abs_gain_unsigned",
    "auc",
    "average_ranks",
    "bootstrap_statistic",
    "draw_resamples",
    "gain_score",
    "l2",
    "linf",
    "order_codes",
    "paired_difference",
    "percentile_interval",
    "plcc",
    "plcc_logistic",
    "psnr",
    "quality_score",
    "r_score",
    "srocc",
    "ssim",
]
