"""Descriptor files of the same images: whether they are, and which row is whose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import StoreError
from vggfeat.store.reader import Descriptors
from vggfeat.store.schema import PENDING
from vggfeat.system.numbers import number_of


def check_distinct(files: Sequence[Descriptors], what: str = "descriptors") -> None:
    """Raises StoreError for a file given twice, or a copy of it, which would count double."""
    for position, file in enumerate(files):
        for other in files[:position]:
            if file.path.samefile(other.path):
                raise StoreError(f"{file.path} is given twice")
            same = file.attributes["fingerprint"] == other.attributes["fingerprint"]
            if same and file.ids == other.ids:
                but = "" if np.array_equal(file.status, other.status) else ", but for images that failed in one"
                raise StoreError(f"{other.path} and {file.path} hold the same {what}{but}: give one of them")


def match_rows(first: Descriptors, other: Descriptors) -> NDArray[np.intp]:
    """The row in `other` of each row of `first`. Raises StoreError unless ids, labels and classes are the same."""
    if other is first:
        return np.arange(len(first))
    index = {id: row for row, id in enumerate(other.ids)}
    for id in first.ids:
        if id not in index:
            raise StoreError(f"{other.path} lacks {id!r}, which {first.path} has")
    if len(index) > len(first):
        known = set(first.ids)
        extra = next(id for id in other.ids if id not in known)
        raise StoreError(f"{first.path} lacks {extra!r}, which {other.path} has")
    rows = np.array([index[id] for id in first.ids], dtype=np.intp)
    if other.class_names != first.class_names:
        in_both = set(first.class_names) & set(other.class_names)
        odd = next((name for name in (*first.class_names, *other.class_names) if name not in in_both), None)
        what = "their classes in another order" if odd is None else f"other classes: {odd!r} is in one alone"
        raise StoreError(f"{first.path} and {other.path} have {what}")
    if first.labels is None or other.labels is None:
        if first.labels is not other.labels:
            bare, labelled = (first, other) if first.labels is None else (other, first)
            raise StoreError(f"{bare.path} has no labels, {labelled.path} has")
        return rows
    same = first.labels == other.labels[rows] if first.labels.ndim == other.labels.ndim else np.zeros(1, dtype=bool)
    differs = ~(same if same.ndim == 1 else same.all(axis=1))
    if differs.any():
        id = first.ids[int(differs.argmax())]
        raise StoreError(f"{first.path} and {other.path} have other labels for {id!r}")
    return rows


def check_finished(file: Descriptors, again: str) -> None:
    """Raises StoreError for a file with rows to do; `again` is what finishes it, such as "extract again"."""
    pending = int((file.status == PENDING).sum())
    if pending:
        verb = "is" if pending == 1 else "are"
        raise StoreError(
            f"{file.path} is not finished: {pending} of {number_of(len(file), 'image')} {verb} still to do; "
            f"{again} with `resume`"
        )
