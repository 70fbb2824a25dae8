"""Arguments of the Python functions: flags must be True or False (not "no"), and output files must be paths."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from vggfeat.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

_FLAGS = ("bool", "bool | None")
"""Annotations of parameters that are flags."""

_PATHS = ("output", "report", "draw", "submission")
"""Names of parameters that are files and folders to write."""


def checked_flags(**flags: Any) -> dict[str, bool | None]:
    """The flags as plain True, False or None. Raises UsageError for a value that is not one of these, or 1 or 0."""
    for name, value in flags.items():
        if value is not None and not (isinstance(value, int | np.bool_) and value in (0, 1)):
            raise UsageError(f"`{name}` {value!r} is not True or False")
    return {name: None if value is None else bool(value) for name, value in flags.items()}


def with_checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses flags other than True and False, and output files that are not paths.

    Flags are the keywords annotated as bool. NumPy's become Python's, because JSON has no others.
    """
    parameters = inspect.signature(function).parameters
    flags = [name for name, parameter in parameters.items() if parameter.annotation in _FLAGS]
    paths = {name: parameter.default for name, parameter in parameters.items() if name in _PATHS}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = dict(zip(parameters, args, strict=False)) | kwargs
        for name in paths.keys() & given.keys():
            value = given[name]
            if not isinstance(value, str | os.PathLike) and not (value is None and paths[name] is None):
                raise UsageError(f"`{name}` {value!r} is not a path")
        kwargs.update(checked_flags(**{name: kwargs[name] for name in flags if name in kwargs}))
        return function(*args, **kwargs)

    return checked
