"""How a user named images, as a file records it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

LONGEST = 8000
"""Characters of paths that a file records: attributes of HDF5 hold 64 KB."""


@dataclass(frozen=True)
class Origin:
    """How a user named images, so that a command can name them again. Relative paths start at the working directory."""

    paths: tuple[str, ...] = ()
    """Files, folders and tar files, with number ranges as given."""
    list_file: str = ""
    nul: bool = False
    """Whether the list is separated by NUL."""
    data: str = ""
    """The data root of a named data set."""

    def as_text(self) -> str | None:
        """What a file records; None for more paths than it takes."""
        return json.dumps(asdict(self), sort_keys=True) if sum(map(len, self.paths)) <= LONGEST else None

    @staticmethod
    def of_text(text: str) -> Origin:
        """What `as_text` wrote. Raises ValueError, TypeError, KeyError or AttributeError for any other text."""
        named = json.loads(text)
        paths = tuple(map(str, named["paths"]))
        return Origin(paths, str(named["list_file"]), bool(named["nul"]), str(named["data"]))
