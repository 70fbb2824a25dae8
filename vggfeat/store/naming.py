"""How the user named what a file was made from, so that a command can name it again. It changes no value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vggfeat.datasets.origin import Origin
from vggfeat.nets.catalog import WEIGHTS_NAMES

NAMES = ("origin", "weights_files", "calibration", "part")
"""The attributes of a file."""


def weights_files(weights: Any, count: int) -> tuple[str, ...]:
    """The weights of `count` nets as given, if a file is among them: settings record the name of a file alone.

    `weights`: one for all nets or one a net; None stands for random ones.
    """
    given = list(weights) if isinstance(weights, list | tuple) else [weights]
    words = ["none" if one is None else str(one) for one in given]
    found = words * count if len(words) == 1 else words
    return tuple(found) if any(word not in WEIGHTS_NAMES for word in found) else ()


@dataclass(frozen=True)
class Naming:
    """What was given for the images, for each net's weights and for the calibration."""

    origin: Origin | None = None
    """None for a list from a pipe, and for a very long one."""
    weights: tuple[str, ...] = ()
    """By net; empty if all have names, as settings record no path."""
    calibration: str = ""
    """The list or descriptor file; empty if the images themselves served."""
    part: str = ""
    """Of the data set, for posteriors; empty for its validation images."""

    def attributes(self) -> dict[str, str]:
        """The attributes that record it in a file."""
        found = {}
        origin = None if self.origin is None else self.origin.as_text()
        if origin is not None:
            found["origin"] = origin
        if self.weights:
            found["weights_files"] = json.dumps(self.weights)
        if self.calibration:
            found["calibration"] = self.calibration
        if self.part:
            found["part"] = self.part
        return found

    @staticmethod
    def of(attributes: Mapping[str, Any]) -> Naming:
        """What a file's attributes, or a model's record, tell; older ones, and damaged ones, tell nothing."""
        try:
            weights = tuple(map(str, json.loads(attributes.get("weights_files", "[]"))))
            calibration = str(attributes.get("calibration", ""))
            origin = Origin.of_text(attributes["origin"]) if "origin" in attributes else None
            return Naming(origin, weights, calibration, str(attributes.get("part", "")))
        except (ValueError, TypeError, KeyError, AttributeError):
            return Naming()
