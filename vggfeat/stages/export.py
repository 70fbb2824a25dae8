"""Descriptors for other tools: a NumPy matrix with a CSV of names beside it, or one CSV file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import StoreError, UsageError
from vggfeat.results import Result
from vggfeat.store import DONE, FAILED, PENDING, Descriptors, read_descriptors
from vggfeat.store.locking import OutputLock
from vggfeat.system.files import replacing

FORMATS = (".npy", ".csv")
_STATUS = {PENDING: "pending", DONE: "done", FAILED: "failed"}

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Exported(Result):
    """The files of an export."""

    path: Path
    names: Path | None
    """The CSV file of ids and labels beside a matrix; None if the file itself has them."""
    rows: int
    missing: int
    """Rows without a descriptor, failed or pending: NaN in a matrix, empty in a CSV file."""

    def as_json(self) -> dict[str, Any]:
        """The paths as strings."""
        names = None if self.names is None else str(self.names)
        return {"path": str(self.path), "names": names, "rows": self.rows, "missing": self.missing}


def export(
    descriptors: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    layer: str | Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Writes all rows of a descriptor file, in its order, as `.npy` or `.csv`; the memory needed does not grow with it.

    `.npy`: (N, D) float32, and beside it a `.csv` of the same name with the columns id, label, subset, status. `.csv`:
    these columns, then f0 to f<D - 1> with 9 digits, which float32 survives. `label` is the class's name; of a
    multi-label set there is a column `label.<class>` of 1, 0 (difficult), -1 each; unlabelled images have none. A row
    that is failed or pending keeps its place.

    Args:
        descriptors: the file that `extract` or `merge` wrote.
        output: the file to write; its suffix says which.
        layer: take this layer, or these, stacked; by default all that the file has.
        overwrite: replace it, and the file of names.
        progress: called with (rows written, rows, rows without a descriptor).

    Raises UsageError for another suffix, StoreError for a file that cannot be read or that exists.
    """
    target = Path(output)
    if target.suffix not in FORMATS:
        raise UsageError(f"{target}: the suffix says what to write: {' or '.join(FORMATS)}")
    made = read_descriptors(Path(descriptors))
    made = made.choose(layer) if layer else made
    names = target.with_suffix(".csv") if target.suffix == ".npy" else None
    with OutputLock(target):
        for path in (target, *([] if names is None else [names])):
            if path.exists() and not overwrite:
                raise StoreError(f"{path} exists: `overwrite` replaces it, `output` names another file")
        if names is None:
            _write_csv(made, target, progress, values=True)
        else:
            _write_csv(made, names, None, values=False)
            _write_npy(made, target, progress)
    return Exported(target, names, len(made), len(made) - len(made.done))


def _write_npy(made: Descriptors, target: Path, progress: Progress | None) -> None:
    # Written as a stream rather than through a memory map: a full disk is then an error that names the file.
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(made), made.dim)}
    with replacing(target) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for _, values in _blocks(made, progress):
            stream.write(values.astype("<f4", copy=False).tobytes())


def _write_csv(made: Descriptors, target: Path, progress: Progress | None, *, values: bool) -> None:
    labels = _Labels(made)
    # Names that are no UTF-8 go out as the bytes that they are.
    with (
        replacing(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        columns = ["id", *labels.columns, "subset", "status"] + [f"f{i}" for i in range(made.dim) if values]
        stream.write(_csv_line(columns))
        form = "," + ",".join(["%.9g"] * made.dim) + "\n"
        empty = "," * made.dim + "\n"
        if not values:
            stream.writelines(_csv_line(_names(made, labels, row)) for row in range(len(made)))
            return
        for start, block in _blocks(made, progress):
            for row, value in enumerate(block, start):
                stream.write(_csv_line(_names(made, labels, row)).removesuffix("\n"))
                stream.write(form % tuple(value.tolist()) if made.status[row] == DONE else empty)


def _blocks(made: Descriptors, progress: Progress | None) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, values) block by block."""
    missing = len(made) - len(made.done)
    start = 0
    for values in made.blocks():
        yield start, values
        start += len(values)
        if progress is not None:
            progress(start, len(made), missing)


class _Labels:
    """The columns that say what an image is."""

    def __init__(self, made: Descriptors) -> None:
        self._labels, self._names = made.labels, made.class_names
        self.columns: list[str] = []
        if self._labels is not None:
            self.columns = ["label"] if self._labels.ndim == 1 else [f"label.{name}" for name in self._names]

    def of(self, row: int) -> list[str]:
        """A row's fields."""
        if self._labels is None:
            return []
        return [self._names[self._labels[row]]] if self._labels.ndim == 1 else list(map(str, self._labels[row]))


def _names(made: Descriptors, labels: _Labels, row: int) -> list[str]:
    return [made.ids[row], *labels.of(row), made.subset[row], _STATUS[int(made.status[row])]]


def _csv_line(fields: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()
