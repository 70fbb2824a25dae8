"""What every stage's result has in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a stage found, as named values; `as_json` gives them as plain data under the published names."""

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON: by default every field under its own name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __getitem__(self, name: str) -> Any:
        """A value by its published name, as in the JSON."""
        return self.as_json()[name]
