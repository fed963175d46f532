"""How well scores agree with human opinion: SROCC, PLCC, and PLCC after a logistic fit.

All take predictions (N,) or (..., N) in any units and opinion scores of the same shape, and return the correlation in
[-1, 1] over the last dimension, (...); nan for constant or fewer than two values. A ValueError refuses unequal shapes.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def plcc(scores: Tensor, mos: Tensor) -> Tensor:
    """Pearson linear correlation of scores with opinion scores."""
    _check_pairs(scores, mos)
    if scores.shape[-1] < 2:
        return scores.new_full(scores.shape[:-1], torch.nan, dtype=torch.float64)
    left, right = _center(scores), _center(mos)
    denominator = left.square().sum(-1).sqrt() * right.square().sum(-1).sqrt()
    correlation = (left * right).sum(-1) / denominator
    is_constant = _is_constant(scores) | _is_constant(mos)  # centring may leave rounding dust
    return torch.where(is_constant, torch.nan, correlation.clamp(-1, 1))


def srocc(scores: Tensor, mos: Tensor) -> Tensor:
    """Spearman rank-order correlation of scores with opinion scores, ties getting their average rank."""
    _check_pairs(scores, mos)
    return plcc(average_ranks(scores), average_ranks(mos))


def chance_srocc(count: int) -> float:
    """Return 2/√(N − 1), two standard errors, which the SROCC of N random pairs rarely exceeds (ours); at most 1."""
    return 2 / math.sqrt(max(count - 1, 4))


def plcc_logistic(scores: Tensor, mos: Tensor) -> Tensor:
    """Pearson correlation of vectors after fitting the scores to the opinions by a four-parameter logistic.

    Fits y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)) by least squares, losing the sign; nan if it fails or N < 4.
    Source: VQEG, "Final report on the validation of objective models of video quality assessment,
    phase II", 2003; starting point from the data's range, scores standardised before the fit (ours).
    """
    _check_pairs(scores, mos)
    if scores.ndim != 1:
        raise ValueError(f"the logistic fit takes vectors (N,), got {tuple(scores.shape)}")
    undefined = torch.tensor(torch.nan, dtype=torch.float64)
    if len(scores) < 4 or bool(_is_constant(scores)) or bool(_is_constant(mos)):
        return undefined
    x = _center(scores) / _center(scores).std()
    fitted = _fit_logistic(x.cpu().numpy(), mos.double().cpu().numpy())
    return undefined if fitted is None else plcc(torch.from_numpy(fitted), mos.double().cpu())


def average_ranks(values: Tensor) -> Tensor:
    """Return ranks (..., N) from 0.5 to N − 0.5 along the last dimension, equal values sharing theirs."""
    count = values.shape[-1]  # whole numbers below it, as `order_codes` gives, need no sorting: tens of times faster
    if values.dtype == torch.int64 and values.numel() and 0 <= int(values.min()) <= int(values.max()) < count:
        codes, groups = values, values
    else:
        # Number the runs of equal values in sorted order.
        ordered, order = values.sort(dim=-1)
        starts = torch.ones_like(ordered, dtype=torch.int64)
        starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
        codes = starts.cumsum(-1) - 1
        groups = torch.empty_like(codes).scatter_(-1, order, codes)
    ones = torch.ones((), dtype=torch.float64, device=values.device).expand(codes.shape)
    sizes = torch.zeros(codes.shape, dtype=torch.float64, device=values.device).scatter_add_(-1, codes, ones)
    return (sizes.cumsum(-1) - sizes / 2).gather(-1, groups)


def order_codes(values: Tensor) -> Tensor:
    """Return whole numbers (N,) in the order of values (N,), ties sharing theirs: `srocc` is the same, but faster."""
    return torch.unique(values, return_inverse=True)[1]  # type: ignore[no-any-return]


def _fit_logistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64] | None:
    from scipy.optimize import least_squares  # heavy, and needed here only

    rises = float(np.corrcoef(x, y)[0, 1]) >= 0
    ends = (y.max(), y.min()) if rises else (y.min(), y.max())
    start = np.array([*ends, float(np.median(x)), 0.5])

    def logistic(upper: float, lower: float, middle: float, width: float) -> NDArray[np.float64]:
        # tanh form: 1 / (1 + exp(-t)) = (1 + tanh(t / 2)) / 2 cannot overflow.
        slope = (x - middle) / (2 * max(abs(width), 1e-9))
        return np.asarray(lower + (upper - lower) * (1 + np.tanh(slope)) / 2)

    fit = least_squares(lambda parameters: logistic(*parameters) - y, start, max_nfev=2000)
    return logistic(*fit.x) if fit.success else None


def _center(values: Tensor) -> Tensor:
    values = values.double()
    return values - values.mean(-1, keepdim=True)


def _is_constant(values: Tensor) -> Tensor:
    return values.amax(-1) == values.amin(-1)


def _check_pairs(scores: Tensor, mos: Tensor) -> None:
    if scores.shape != mos.shape or scores.ndim == 0:
        raise ValueError(f"scores and opinions must pair up, got {tuple(scores.shape)} and {tuple(mos.shape)}")
