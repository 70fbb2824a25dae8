"""How the user named what a file was made from, so that a command can name it again. It changes no value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vggfeat.datasets.sample import Origin

LONGEST = 8000
"""Characters of paths that a file records: attributes of HDF5 hold 64 KB."""

NAMES = ("origin", "weights_files", "calibration")
"""The attributes of a file."""


@dataclass(frozen=True)
class Naming:
    """What was given for the images, for each net's weights and for the calibration."""

    origin: Origin | None = None
    """None for a list from a pipe, and for a very long one."""
    weights: tuple[str, ...] = ()
    """By net; empty if all have names, as settings record no path."""
    calibration: str = ""
    """The list or descriptor file; empty if the images themselves served."""

    def attributes(self) -> dict[str, str]:
        """The attributes that record it in a file."""
        found = {}
        if self.origin is not None and sum(map(len, self.origin.paths)) <= LONGEST:
            found["origin"] = json.dumps(asdict(self.origin), sort_keys=True)
        if self.weights:
            found["weights_files"] = json.dumps(self.weights)
        if self.calibration:
            found["calibration"] = self.calibration
        return found

    @staticmethod
    def of(attributes: Mapping[str, Any]) -> Naming:
        """What a file's attributes, or a model's record, tell; older ones, and damaged ones, tell nothing."""
        try:
            weights = tuple(map(str, json.loads(attributes.get("weights_files", "[]"))))
            calibration = str(attributes.get("calibration", ""))
            if "origin" not in attributes:
                return Naming(None, weights, calibration)
            named = json.loads(attributes["origin"])
            paths = tuple(map(str, named["paths"]))
            origin = Origin(paths, str(named["list_file"]), bool(named["nul"]), str(named["data"]))
            return Naming(origin, weights, calibration)
        except (ValueError, TypeError, KeyError, AttributeError):
            return Naming()
