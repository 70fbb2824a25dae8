"""What every stage's result has in common."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView
from dataclasses import dataclass, fields
from typing import Any

LONGEST = 40
"""Up to this many characters of a value are shown."""


def short_repr(thing: Any) -> str:
    """The representation of a dataclass with its long values counted or cut, for notebooks."""
    shown = [f"{field.name}={_short(getattr(thing, field.name))}" for field in fields(thing) if field.repr]
    return f"{type(thing).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple | dict | set) and len(repr(value)) > LONGEST:
        return f"<{len(value)}>"
    if hasattr(value, "shape"):
        return f"<{'x'.join(map(str, value.shape))}>"
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}.."


@dataclass(frozen=True)
class Result:
    """What a stage found, as named values; `as_json` gives them as plain data under the published names.

    It reads like a dictionary of these, too: `result["mean"]`, `"mean" in result`, `dict(result)`. It is no
    `collections.abc.Mapping`, as some results have a value called `values`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = short_repr  # type: ignore[method-assign]  # before `dataclass` makes one that prints every value

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON: by default every field under its own name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __getitem__(self, name: str) -> Any:
        """A value by its published name, as in the JSON."""
        return self.as_json()[name]

    def __contains__(self, name: object) -> bool:
        return name in self.as_json()

    def __iter__(self) -> Iterator[str]:
        """The published names."""
        return iter(self.as_json())

    def keys(self) -> KeysView[str]:
        """The published names."""
        return self.as_json().keys()

    def items(self) -> ItemsView[str, Any]:
        """The published names and their values."""
        return self.as_json().items()

    def get(self, name: str, default: Any = None) -> Any:
        """A value by its published name, or the default."""
        return self.as_json().get(name, default)
