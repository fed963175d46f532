"""Figures and budgets as text."""

from collections.abc import Mapping

DASH = "–"
UP, DOWN = "\u00a0↑", "\u00a0↓"  # which way is better, behind a space that does not break
NORMS = {"linf": "L∞", "l2": "L2", "rmse": "RMSE", "flow": "displacement", "none": "no limit"}


def short(value: float | None) -> str:
    """Return a figure as the paper prints it: three decimals, no leading zero; a dash where undefined."""
    if value is None:
        return DASH
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed(value: float | None) -> str:
    """Return a figure like `short`, with its sign in front."""
    return short(value) if value is None or value < 0 else f"+{short(value)}"


def plain(value: float | str | None) -> str:
    """Return a number of any size with four significant digits, a word as it stands, a dash for None."""
    if value is None:
        return DASH
    return value if isinstance(value, str) else f"{value:.4g}"


def is_number(key: str) -> bool:
    """Return whether the key of a budget is its size in 1/255, not a word such as "own"."""
    try:
        float(key)
    except ValueError:
        return False
    return True


def budget(key: str) -> str:
    """Return the key of a budget as a reader would say it."""
    return f"{key}/255" if is_number(key) else f"its {key} budget"


def listed(values: Mapping[str, float | int | str | None]) -> str:
    """Return named values in one line, none of them to be broken."""
    return ", ".join(f"{name}\u00a0=\u00a0{plain(value)}" for name, value in values.items())


def significant(value: float | None, digits: int = 3, *, unit: float = 1) -> str:
    """Return a number with some significant digits, counted in `unit`; a dash for None."""
    return DASH if value is None else f"{value / unit:.{digits}g}"
