"""The paper's results as data, for comparison (arXiv 1409.1556: Tables 3, 4, 11 and 12)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferScore:
    """A cell of Table 11 or 12."""

    nets: tuple[str, ...]
    value: float
    """mAP or mean class recall in %."""
    std: float | None = None
    """Standard deviation over the splits in %, if there are several."""
    setting: str = ""


_POOLED = "average over Q 256, 384, 512, 640, 768"
_STACKED = "stacked over Q 256, 384, 512"

TRANSFER: dict[str, tuple[TransferScore, ...]] = {
    "voc2007": (
        TransferScore(("D",), 89.3, None, _POOLED),
        TransferScore(("E",), 89.3, None, _POOLED),
        TransferScore(("D", "E"), 89.7, None, _POOLED),
    ),
    "voc2012": (
        TransferScore(("D",), 89.0, None, f"{_POOLED}; evaluation server"),
        TransferScore(("E",), 89.0, None, f"{_POOLED}; evaluation server"),
        TransferScore(("D", "E"), 89.3, None, f"{_POOLED}; evaluation server"),
    ),
    "caltech101": (
        TransferScore(("D",), 91.8, 1.0, _STACKED),
        TransferScore(("E",), 92.3, 0.5, _STACKED),
        TransferScore(("D", "E"), 92.7, 0.5, _STACKED),
    ),
    "caltech256": (
        TransferScore(("D",), 85.0, 0.2, _STACKED),
        TransferScore(("E",), 85.1, 0.3, _STACKED),
        TransferScore(("D", "E"), 86.2, 0.3, _STACKED),
    ),
    "voc2012-action": (
        TransferScore(("D", "E"), 79.2, None, "whole image"),
        TransferScore(("D", "E"), 84.0, None, "whole image and the person's box"),
    ),
}
"""Data set -> its column of Table 11; of Table 12 for VOC action."""


def transfer_table(dataset: str) -> str:
    """The paper's table for a data set."""
    return "Table 12" if dataset == "voc2012-action" else "Table 11"


@dataclass(frozen=True)
class ClassificationScore:
    """A cell of Table 3 or 4: ILSVRC-2012 validation errors in %."""

    table: int
    net: str
    train_scale: str
    test_scales: tuple[int, ...]
    top1: float
    top5: float


def _table_3(net: str, train_scale: str, Q: int, top1: float, top5: float) -> ClassificationScore:
    return ClassificationScore(3, net, train_scale, (Q,), top1, top5)


def _table_4(net: str, train_scale: str, top1: float, top5: float) -> ClassificationScore:
    scales = {"256": (224, 256, 288), "384": (352, 384, 416), "256-512": (256, 384, 512)}[train_scale]
    return ClassificationScore(4, net, train_scale, scales, top1, top5)


CLASSIFICATION: tuple[ClassificationScore, ...] = (
    _table_3("A", "256", 256, 29.6, 10.4),
    _table_3("A-LRN", "256", 256, 29.7, 10.5),
    _table_3("B", "256", 256, 28.7, 9.9),
    _table_3("C", "256", 256, 28.1, 9.4),
    _table_3("C", "384", 384, 28.1, 9.3),
    _table_3("C", "256-512", 384, 27.3, 8.8),
    _table_3("D", "256", 256, 27.0, 8.8),
    _table_3("D", "384", 384, 26.8, 8.7),
    _table_3("D", "256-512", 384, 25.6, 8.1),
    _table_3("E", "256", 256, 27.3, 9.0),
    _table_3("E", "384", 384, 26.9, 8.7),
    _table_3("E", "256-512", 384, 25.5, 8.0),
    _table_4("B", "256", 28.2, 9.6),
    _table_4("C", "256", 27.7, 9.2),
    _table_4("C", "384", 27.8, 9.2),
    _table_4("C", "256-512", 26.3, 8.2),
    _table_4("D", "256", 26.6, 8.6),
    _table_4("D", "384", 26.5, 8.6),
    _table_4("D", "256-512", 24.8, 7.5),
    _table_4("E", "256", 26.9, 8.7),
    _table_4("E", "384", 26.7, 8.6),
    _table_4("E", "256-512", 24.8, 7.5),
)
"""Single nets, dense evaluation: one test scale (Table 3) and several (Table 4)."""
