"""Values given from Python, checked and made plain: NumPy's numbers and names would fail later, as in JSON."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from vggfeat.errors import UsageError, unknown_name

MOST = 1 << 63
"""torch and HDF5 count in 64 bits."""

Name = TypeVar("Name", bound=str)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A parameter's value as an int. Raises UsageError unless it is a whole number of 64 bits, of `least` or more."""
    if isinstance(value, numbers.Integral) and abs(int(value)) >= MOST:
        raise UsageError(f"`{name}` does not fit into 64 bits")
    if isinstance(value, numbers.Integral) and (least is None or int(value) >= least):
        return int(value)
    raise UsageError(f"`{name}` {value!r} is not a whole number" + ("" if least is None else f" of {least} or more"))


def real(name: str, value: Any) -> float:
    """A parameter's value as a float. Raises UsageError unless it is a number."""
    if isinstance(value, numbers.Real):
        return float(value)
    raise UsageError(f"`{name}` {value!r} is not a number")


def several(name: str, value: Any) -> tuple[str, ...]:
    """A parameter's names, of which it takes one or several. Raises UsageError unless all are strings."""
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(one, str) for one in names):
        raise UsageError(f"`{name}` {value!r} is neither a name nor several names")
    return names


def one_of(kind: str, value: Any, valid: Sequence[Name]) -> Name:
    """The valid name that a value is equal to. Raises UsageError, which lists them all, for any other value."""
    if isinstance(value, str) and value in valid:
        return valid[list(valid).index(value)]  # type: ignore[arg-type]
    raise unknown_name(kind, value, valid)
