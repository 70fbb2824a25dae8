"""Descriptor files as one matrix: joined by id, stacked side by side, checked (late fusion, Appendix B)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import DatasetError, StoreError
from vggfeat.store import DONE, Descriptors, read_descriptors
from vggfeat.store.matching import check_distinct, check_finished, match_rows
from vggfeat.store.pooling import AGGREGATES, Aggregate, aggregated_dim
from vggfeat.store.provenance import LATER
from vggfeat.store.reader import check_kept_scales
from vggfeat.store.shards import whole_path
from vggfeat.system.values import one_of

ROWS_AT_ONCE = 512
"""Rows read at once, so that a file is never whole in memory beside the result."""


@dataclass(frozen=True)
class Features:
    """Descriptor files joined by id. Rows are in the order of the first file."""

    files: tuple[Descriptors, ...]
    file_rows: tuple[NDArray[np.intp], ...]
    """For each file, the row of each of our N rows."""
    aggregate: Aggregate | None
    """How to aggregate the kept scales; None: as the files were."""
    scales: tuple[int, ...] | None
    """Which of the kept scales to aggregate; None: all."""
    labels: NDArray[Any]
    """(N,) class indices, or (N, K) of 1, 0 (difficult or unknown), -1."""
    described: NDArray[np.bool_]
    """(N,) whether every file has a descriptor."""
    layers: tuple[str, ...] = ()
    """Those that were chosen from every file; empty: all that each has."""

    @property
    def ids(self) -> list[str]:
        """N unique ids."""
        return self.files[0].ids

    @property
    def subset(self) -> list[str]:
        """For each row "train", "val", "test" or ""."""
        return self.files[0].subset

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return self.files[0].class_names

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.files[0].attributes["dataset"])

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes."""
        return self.labels.ndim == 2

    @property
    def dim(self) -> int:
        """Length D of a joined descriptor."""
        return sum(self._dims())

    def _dims(self) -> list[int]:
        """Length of each file's part."""
        return [
            sum(
                aggregated_dim(int(dim), len(used["scales"]), used["aggregate"])
                for dim in file.attributes["layer_dims"]
            )
            for file, used in zip(self.files, self._pooling(), strict=True)
        ]

    def _pooling(self) -> list[dict[str, Any]]:
        """For each file the scales in use and their aggregation."""
        return [_pooling(file, self.aggregate, self.scales) for file in self.files]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """(n, D) descriptors: the files' unit vectors side by side, divided by the root of their number.

        Raises StoreError for a descriptor that is not finite.
        """
        out = np.empty((len(rows), self.dim), dtype=np.float32)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self._read_into(out[start : start + ROWS_AT_ONCE], rows[start : start + ROWS_AT_ONCE])
        return out

    def blocks(self, rows: NDArray[np.intp]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The descriptors of these rows in blocks: (slice of the rows, (n, D))."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, min(start + ROWS_AT_ONCE, len(rows)))
            yield part, self.read(rows[part])

    def _read_into(self, out: NDArray[np.float32], rows: NDArray[np.intp]) -> None:
        scale = np.float32(1 / np.sqrt(len(self.files)))
        column = 0
        for file, file_rows, dim, used in zip(self.files, self.file_rows, self._dims(), self._pooling(), strict=True):
            wanted = file_rows[rows]
            stored = _as_stored(file, used)
            values = file.read(wanted) if stored else file.aggregated(used["aggregate"], wanted, used["scales"])
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                id = file.ids[wanted[bad.argmax()]]
                raise StoreError(f"{file.path}: the descriptor of {id!r} is not finite (NaN); extract it again")
            np.multiply(values, scale, out=out[:, column : column + dim])
            column += dim

    def provenance(self) -> list[dict[str, Any]]:
        """For each file its path and how it was made, as results report it; LATER settings where not the usual ones."""
        names = ("net", "weights", "weights_sha256", "layer", "flip", "region", "precision", "fingerprint")
        return [
            {
                "path": str(file.path),
                "nets": file.nets,
                **used,
                **{name: file.attributes[name] for name in names},
                **{name: file.attributes[name] for name in LATER if name in file.attributes},
            }
            for file, used in zip(self.files, self._pooling(), strict=True)
        ]

    def settings(self) -> list[dict[str, Any]]:
        """For each file the settings to describe new images in the same way."""
        return [{**file.attributes["settings"], **used} for file, used in zip(self.files, self._pooling(), strict=True)]


def open_features(
    paths: Sequence[str | os.PathLike[str]],
    dataset: str | None = None,
    aggregate: Aggregate | None = None,
    scales: Sequence[int] | None = None,
    layers: Sequence[str] = (),
) -> Features:
    """Opens descriptor files and joins their rows by id.

    Args:
        paths: one file or several, each of the same images.
        dataset: the data set that they must be of; None: the first file's.
        aggregate: aggregate the kept scales again, in this way.
        scales: aggregate only these of the kept scales.
        layers: of each file take these alone; by default all that it has.

    Raises StoreError or DatasetError, naming the file and the first offending id, for a file that is unfinished, has no
    labels, is of another data set, is given twice, lacks scales or layers, or has other ids or labels than the first.
    """
    if aggregate is not None:
        one_of("aggregation", aggregate, AGGREGATES)
    files = [read_descriptors(path) for path in paths]
    if layers:
        files = [file.choose(layers) for file in files]
    for file in files:
        _check_usable(file, dataset or str(files[0].attributes["dataset"]), named=dataset is not None)
        _check_scales(file, aggregate, scales)
    check_distinct(files)
    first = files[0]
    file_rows = tuple(match_rows(first, file) for file in files)
    for file, rows in zip(files, file_rows, strict=True):
        _check_subsets(first, file, rows)
    labels = first.labels
    assert labels is not None  # _check_usable refuses files without labels
    described = np.all([file.status[rows] == DONE for file, rows in zip(files, file_rows, strict=True)], axis=0)
    chosen = None if scales is None else tuple(scales)
    return Features(tuple(files), file_rows, aggregate, chosen, labels, described, tuple(layers))


def _pooling(file: Descriptors, aggregate: Aggregate | None, scales: Sequence[int] | None) -> dict[str, Any]:
    """The scales of a file that are in use, and their aggregation."""
    return {
        "scales": [Q for Q in file.attributes["scales"] if scales is None or Q in scales],
        "aggregate": aggregate or file.attributes["aggregate"],
    }


def _as_stored(file: Descriptors, used: dict[str, Any]) -> bool:
    """Whether the file's own descriptors serve; a single scale is the same under every aggregation."""
    alike = used["aggregate"] == file.attributes["aggregate"] or len(used["scales"]) == 1
    return alike and used["scales"] == list(file.attributes["scales"])


def _check_scales(file: Descriptors, aggregate: Aggregate | None, scales: Sequence[int] | None) -> None:
    check_kept_scales(file, scales)
    if not file.attributes["keep_scales"] and not _as_stored(file, _pooling(file, aggregate, scales)):
        asked = "`aggregate`" if scales is None else "`scales`"
        raise StoreError(f"{file.path} keeps no single scales, so {asked} cannot change it: extract with `keep_scales`")


def _check_usable(file: Descriptors, dataset: str, named: bool) -> None:
    if file.portion is not None:
        raise StoreError(
            f"{file.path} is {file.portion}: merge all of them",
            advice="merge",
            shards=file.portion.shard.pattern(whole_path(file.path)),
            output=whole_path(file.path),
        )
    if file.holds_posteriors:
        raise StoreError(f"{file.path} holds posteriors, not descriptors", advice="evaluate", file=file.path)
    own = file.attributes["dataset"]
    if own != dataset:
        wanted = f"`dataset` is {dataset!r}" if named else f"the first file is of {dataset!r}"
        raise DatasetError(f"{file.path} has descriptors of {own!r}, {wanted}")
    if file.labels is None:
        raise DatasetError(
            f"{file.path} has no labels: extract with `dataset` (for your own <class>/*.jpg tree or CSV of path,label: "
            "`dataset=folder` `data=DIR`)"
        )
    check_finished(file, "extract again")


def _check_subsets(first: Descriptors, other: Descriptors, rows: NDArray[np.intp]) -> None:
    """Raises StoreError unless the images are of the same subsets in both, whose order would else decide the split."""
    for subset, row, id in zip(first.subset, rows.tolist(), first.ids, strict=True):
        if other.subset[row] != subset:
            raise StoreError(f"{first.path} and {other.path} have other subsets for {id!r}")
