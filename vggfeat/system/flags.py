"""Flags given from Python: True or False, nothing that Python merely takes for one, such as "no"."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from vggfeat.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

_FLAGS = ("bool", "bool | None")
"""Annotations of parameters that are flags."""


def checked_flags(**flags: Any) -> dict[str, bool | None]:
    """The flags as plain True, False or None. Raises UsageError for a value that is not one of these, or 1 or 0."""
    for name, value in flags.items():
        if value is not None and not (isinstance(value, int | np.bool_) and value in (0, 1)):
            raise UsageError(f"`{name}` {value!r} is not True or False")
    return {name: None if value is None else bool(value) for name, value in flags.items()}


def with_checked_flags(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses other values than True and False for its keywords annotated as flags.

    Inside of it they are Python's own: NumPy's would be no JSON.
    """
    parameters = inspect.signature(function).parameters.items()
    flags = [name for name, parameter in parameters if parameter.annotation in _FLAGS]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        kwargs.update(checked_flags(**{name: kwargs[name] for name in flags if name in kwargs}))
        return function(*args, **kwargs)

    return checked
