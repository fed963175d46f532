"""Limits of settings, all refused in the same words."""

from functools import cache
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from iqa_armor.errors import SettingError

NotNegative = Annotated[float, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
Count = Annotated[int, "[1, inf)"]


class Limited:
    """Base of dataclasses that raise SettingError outside `Annotated[float, "(0, 1]"]` or a `Literal` of values."""

    def __post_init__(self) -> None:
        check_limits(self, **_annotated(type(self)))  # type: ignore[arg-type]  # a class is hashable


@cache
def _annotated(kind: type) -> dict[str, str | tuple[object, ...]]:
    hints = get_type_hints(kind, include_extras=True).items()
    intervals = {name: get_args(hint)[1] for name, hint in hints if get_origin(hint) is Annotated}
    return {**intervals, **{name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}}


def check_limits(owner: object, **limits: str | tuple[object, ...]) -> None:
    """Raise a SettingError if an attribute is outside its limit, as "[0, inf)" or allowed values; NaN always is."""
    for name, limit in limits.items():
        value, said = getattr(owner, name), f"in {limit}"
        if isinstance(limit, str):
            least, most = map(float, limit[1:-1].split(","))
            ends = [least] * (limit[0] == "[") + [most] * (limit[-1] == "]")
            fits = least < value < most or value in ends
        else:
            fits, said = value in limit, f"out of {', '.join(map(str, limit))}"
        if not fits:
            raise SettingError(f"{type(owner).__name__} needs {name} {said}, got {value!r}")
