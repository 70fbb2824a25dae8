"""The results of linear SVMs by a data set's protocol (Appendix B)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vggfeat.classifiers.protocols.copies import Copy
from vggfeat.classifiers.protocols.rules import Measure
from vggfeat.results import Result

ByClass = dict[str, float]


@dataclass(frozen=True)
class SplitResult(Result):
    """One split's choice of C and its score."""

    seed: int | None
    fold: int | None
    """Which of k folds was tested, from 0; left out of the JSON of other splits."""
    C: float | ByClass
    """Chosen class by class for multi-label sets."""
    value: float
    """The measure on the test part, from 0 to 1."""
    train: int
    """Number of training images that did not choose C."""
    val: int
    test: int
    validation: list[dict[str, Any]] | None
    """For each C its mean `value`, and for multi-label sets the values `per_class`; None if one C was given."""
    per_class: ByClass
    """Recall or average precision of each class on the test part; nan without test images."""
    duality_gap: float
    """The largest relative gap of the classes' fits."""
    seconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """See Result."""
        return {name: value for name, value in super().as_json().items() if name != "fold" or value is not None}


@dataclass(frozen=True)
class LayerScore(Result):
    """One layer's score."""

    layer: str
    dim: int
    """Length of its descriptor, all files together."""
    values: tuple[float, ...]
    """The measure on each split's test part, from 0 to 1."""

    @property
    def mean(self) -> float:
        """Of the splits' values."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float | None:
        """Of the splits' values, n - 1; None for one split."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class SVMResult(Result):
    """The scores of linear SVMs by their data set's protocol. Values that are None from `chance` on are left out of
    the JSON."""

    dataset: str
    measure: Measure
    mean: float
    """Of the splits' values, from 0 to 1."""
    std: float | None
    """Of the splits' values, n - 1; None for one split."""
    splits: tuple[SplitResult, ...]
    per_class: ByClass
    """Each class's mean over the splits."""
    descriptors: list[dict[str, Any]]
    """For each file its path and how it was made."""
    C: list[float]
    """The grid."""
    solver: str
    loss: str
    left_out: list[str]
    """Ids of images without a descriptor."""
    chance: float | None = None
    """The expected score of guessing, from 0 to 1: 1 / classes, or the mean share of positive test images for mAP."""
    definition: str | None = None
    """Of the average precision, for multi-label sets."""
    archive: str | None = None
    """Path of the evaluation server's archive."""
    model: str | None = None
    """Path of the model."""
    seconds: float = 0.0
    report: str | None = None
    """Path of the page."""
    copies: tuple[Copy, ...] = ()
    """Test images whose descriptors are nearly those of training images of their split; left out of the JSON if there
    are none."""
    by_layer: tuple[LayerScore, ...] | None = None
    """The score of each layer by itself, where asked for."""

    def as_json(self) -> dict[str, Any]:
        """See Result."""
        optional = ("chance", "definition", "archive", "model", "report", "by_layer")
        values = {name: value for name, value in super().as_json().items() if name not in optional or value is not None}
        values.pop("copies")
        if self.copies:
            values["copies"] = [asdict(copy) for copy in self.copies]
        if self.by_layer is not None:
            values["by_layer"] = [
                {"layer": one.layer, "dim": one.dim, "mean": one.mean, "std": one.std} for one in self.by_layer
            ]
        return values | {"splits": [split.as_json() for split in self.splits]}

    @property
    def files(self) -> list[str]:
        """Paths of the files written, for stdout."""
        return [path for path in (self.archive, self.model, self.report) if path is not None]
