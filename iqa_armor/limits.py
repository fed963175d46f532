"""Limits of settings, all refused in the same words."""

from __future__ import annotations


def check_limits(owner: object, **limits: str | tuple[object, ...]) -> None:
    """Refuse an object whose settings are outside their limits.

    Args:
        owner: Object with these attributes.
        limits: By attribute, an interval such as "[0, inf)" or the values that are allowed.

    Raises:
        ValueError: If one is outside; NaN is outside of all.
    """
    for name, limit in limits.items():
        value = getattr(owner, name)
        if isinstance(limit, str):
            fits, said = _lies_in(value, limit), f"in {limit}"
        else:
            fits, said = value in limit, f"out of {', '.join(map(str, limit))}"
        if not fits:
            raise ValueError(f"{type(owner).__name__} needs {name} {said}, got {value!r}")


def _lies_in(value: float, interval: str) -> bool:
    least, most = map(float, interval[1:-1].split(","))
    ends = (interval[0] == "[" and value == least) or (interval[-1] == "]" and value == most)
    return least < value < most or ends
