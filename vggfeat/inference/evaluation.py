"""The results of an evaluation: top-1 and top-5 errors (Sect. 4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vggfeat.inference.posteriors import Confusion, Posteriors
from vggfeat.results import Result


@dataclass(frozen=True)
class Row(Result):
    """The errors of one net, one file, or several fused."""

    net: str
    nets: str
    """The nets with their widths and weights, in words."""
    weights: str
    view: str
    scales: tuple[int, ...]
    images: int
    top1_error: float | None
    """In %; None without labels."""
    top5_error: float | None
    """In %; None, too, with 5 classes or fewer."""
    flip: bool | None = None
    precision: str | None = None
    path: str | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, posteriors: Posteriors) -> Row:
        """What posteriors were made by, and their errors."""
        return cls(**asdict(posteriors.made), **asdict(posteriors.errors()))

    def as_json(self) -> dict[str, Any]:
        """Plain data; what is not known of a fusion is left out."""
        known = {name: value for name, value in super().as_json().items() if value is not None}
        return {**known, "scales": list(self.scales), "top1_error": self.top1_error, "top5_error": self.top5_error}


@dataclass(frozen=True)
class Evaluation(Result):
    """What `evaluate` found."""

    dataset: str
    classes: int
    """Their number."""
    rows: tuple[Row, ...]
    """A net or a file each; for several files the last is their fusion."""
    failed: dict[str, str]
    """Reasons by id; these images are left out of the errors."""
    posteriors: str | None
    """The file that keeps them."""
    per_class: dict[str, float | None] | None = None
    """Top-1 error in % by class, where asked for."""
    confusions: tuple[Confusion, ...] | None = None
    submission: str | None = None
    """The path of ILSVRC's result file."""
    report: str | None = None
    """The path of the page."""

    def as_json(self) -> dict[str, Any]:
        """Plain data; what was not asked for is left out."""
        plain = super().as_json() | {"rows": [row.as_json() for row in self.rows]}
        if self.confusions is not None:
            plain["confusions"] = [asdict(pair) for pair in self.confusions]
        optional = ("per_class", "confusions", "submission", "report")
        return {name: value for name, value in plain.items() if value is not None or name not in optional}
