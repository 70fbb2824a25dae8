"""Class posteriors: files, fusion and errors (Sect. 3.2, 4).

A posteriors file is a descriptor file whose layer is "posteriors": one row an image, one column a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import StoreError, UsageError
from vggfeat.metrics import TOP, class_recalls, confusion_matrix, percent, topk_error
from vggfeat.nets.wording import nets_words
from vggfeat.store import Descriptors, File, as_descriptors
from vggfeat.store.choices import POSTERIORS
from vggfeat.store.matching import check_distinct, check_finished, match_rows
from vggfeat.system.numbers import number_of

CONFUSIONS = 10
"""Pairs of classes that a report of confusions names."""


@dataclass(frozen=True)
class Made:
    """How posteriors were made."""

    net: str
    """Several nets' names are joined by "+", as are their weights and their files' views."""
    nets: str
    """The nets with their widths and weights, in words."""
    weights: str
    view: str
    scales: tuple[int, ...]
    flip: bool | None = None
    """None for a fusion of files, as are the precision, path and fingerprint."""
    precision: str | None = None
    path: str | None = None
    fingerprint: str | None = None

    @classmethod
    def by(cls, provenance: Mapping[str, Any]) -> Made:
        """From `Scorer.provenance()`."""
        nets = provenance["nets"]
        return cls(
            "+".join(net["net"] for net in nets),
            nets_words(nets),
            "+".join(net["weights"] for net in nets),
            provenance["view"],
            tuple(provenance["scales"]),
            provenance["flip"],
            provenance["precision"],
        )

    @classmethod
    def of_all(cls, members: Sequence[Made]) -> Made:
        """Of the fusion of several files: nets side by side, each view and scale once."""
        return cls(
            "+".join(one.net for one in members),
            " and ".join(one.nets for one in members),
            "+".join(one.weights for one in members),
            "+".join(dict.fromkeys(one.view for one in members)),
            tuple(sorted({Q for one in members for Q in one.scales})),
        )


@dataclass(frozen=True)
class TopKErrors:
    """Errors in %, over the images that have posteriors."""

    images: int
    top1_error: float | None
    """None without labels or images."""
    top5_error: float | None
    """None, too, with 5 classes or fewer."""


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another."""

    true: str
    predicted: str
    count: int


@dataclass(frozen=True)
class Posteriors:
    """The class posteriors of a list of images, from one net or several."""

    dataset: str
    ids: Sequence[str]
    labels: NDArray[np.int64] | None
    """(N,) class indices; None for a test set."""
    class_names: tuple[str, ...]
    values: NDArray[np.float32]
    """(N, K), rows that sum to 1; NaN where an image failed."""
    failures: dict[str, str]
    """The reason of each failed image, by id."""
    nets: int
    """How many nets were averaged."""
    made: Made

    @property
    def done(self) -> NDArray[np.bool_]:
        """(N,) whether an image has posteriors."""
        failed = np.array([id in self.failures for id in self.ids], dtype=bool)
        return ~failed

    def errors(self) -> TopKErrors:
        """Top-1 and top-5 error of the images that have posteriors."""
        done = self.done
        count, top1, top5 = int(done.sum()), None, None
        if self.labels is not None and count:
            labels, values = self.labels[done], self.values[done]
            top1 = percent(topk_error(labels, values, 1))
            top5 = percent(topk_error(labels, values, TOP)) if len(self.class_names) > TOP else None
        return TopKErrors(count, top1, top5)

    def per_class(self) -> tuple[dict[str, float | None], tuple[Confusion, ...]]:
        """Top-1 error in % by class (None without images), and the most frequent confusions.

        Raises UsageError without labels.
        """
        if self.labels is None:
            raise UsageError(f"{self.dataset} has no labels here, so no errors per class")
        names = self.class_names
        labels, predicted = self.labels[self.done], self.values[self.done].argmax(axis=1)
        recalls = class_recalls(labels, predicted, len(names))
        errors = {
            name: None if np.isnan(recall) else percent(1 - float(recall))
            for name, recall in zip(names, recalls, strict=True)
        }
        counts = confusion_matrix(labels, predicted, len(names))
        np.fill_diagonal(counts, 0)
        worst = np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS]
        pairs = [divmod(int(place), len(counts)) for place in worst]
        return errors, tuple(
            Confusion(names[true], names[guess], int(counts[true, guess]))
            for true, guess in pairs
            if counts[true, guess]
        )


def fuse(members: Iterable[Posteriors]) -> Posteriors:
    """The average of posteriors of the same images, every net weighing the same; an image that failed in one fails."""
    total: Posteriors | None = None
    made: list[Made] = []
    for member in members:
        made.append(member.made)
        if total is None:
            total = member
            continue
        nets = total.nets + member.nets
        # In place after the first sum: ILSVRC's 50,000 x 1,000 posteriors are 200 MB.
        values = total.values * np.float32(total.nets / nets)
        values += member.values * np.float32(member.nets / nets)
        failures = {**member.failures, **total.failures}
        total = replace(total, values=values, failures=failures, nets=nets, made=Made.of_all(made))
    if total is None:
        raise UsageError("no posteriors to fuse")
    return total


def joined(given: Sequence[File]) -> Iterator[Posteriors]:
    """The posteriors of each file, rows in the order of the first file's ids. All files are checked before the first.

    Raises StoreError or DatasetError, naming the file and the first offending id or class: for a file that holds no
    posteriors, is not finished or given twice, or has other ids, labels or classes than the first one.
    """
    files = [as_descriptors(one) for one in given]
    for file in files:
        _check(file)
    check_distinct(files, POSTERIORS)
    matches = [match_rows(files[0], file) for file in files]
    return (_member(file, rows) for file, rows in zip(files, matches, strict=True))


def _member(file: Descriptors, rows: NDArray[np.intp]) -> Posteriors:
    attributes = file.attributes
    settings = attributes["settings"]
    made = replace(Made.by(settings), path=str(file.path), fingerprint=attributes["fingerprint"])
    return Posteriors(
        str(attributes["dataset"]),
        [file.ids[row] for row in rows],
        None if file.labels is None else file.labels[rows].astype(np.int64),
        file.class_names,
        file.read(rows),
        file.errors(),
        len(settings["nets"]),
        made,
    )


def _check(file: Descriptors) -> None:
    if not file.holds_posteriors:
        raise StoreError(
            f"{file.path} holds {file.attributes['layer']} descriptors, no posteriors", advice="posteriors"
        )
    check_finished(file, "run the same evaluation")
    k = len(file.class_names)
    labels = file.labels
    out_of_range = labels is not None and (labels.ndim != 1 or bool(((labels < 0) | (labels >= k)).any()))
    if k != file.dim or out_of_range:
        sizes = f"{number_of(file.dim, 'column')}, {number_of(k, 'class')}"
        raise StoreError(f"{file.path}: damaged file of posteriors ({sizes})")
