"""Descriptors for other tools: NumPy, CSV, MATLAB and Parquet files, each with ids, labels and status."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import StoreError, UsageError
from vggfeat.results import Result
from vggfeat.store import DONE, FAILED, PENDING, Descriptors, File, as_descriptors
from vggfeat.store.locking import OutputLock
from vggfeat.store.reader import warn_of_part
from vggfeat.store.schema import EXPORT_FORMATS
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Progress, callback, with_bar
from vggfeat.system.files import replacing

MOST_MAT = (1 << 32) - (1 << 16)
"""Bytes of the largest array in a MATLAB file (version 5)."""

BLOCK_BYTES = 48 << 20
"""Bytes of descriptors read at a time: a map kept whole (`pool=none`) has millions of values an image."""

_STATUS = {PENDING: "pending", DONE: "done", FAILED: "failed"}


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


@with_checked_arguments
@with_bar("export", "row")
def export(
    descriptors: File,
    output: str | os.PathLike[str],
    *,
    layer: str | Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | bool | None = True,
) -> Exported:
    """Writes all rows of a descriptor file, in its order, in the format of `output`'s suffix.

    - `.npy`: (N, D) float32, and beside it a `.csv` of the same name with the columns id, label, subset, status.
    - `.csv`: these columns, then f0 to f<D - 1> with 9 digits, which float32 survives.
    - `.npz`, `.mat`: the arrays descriptors (N, D) float32, ids, subset, status, errors (N,) of text, and of labelled
      images labels (class numbers from 0 (N,), or 1, 0 (difficult), -1 (N, K)) and class_names (K,). In `.mat` class
      numbers count from 1, as MATLAB's indices do: class_names{labels(i)} is the class of image i.
    - `.parquet`: the columns id, label, subset, status, error, descriptor (a list of D float32; needs pyarrow).

    In tables `label` is the class's name; a multi-label set has a column `label.<class>` of 1, 0 (difficult), -1 for
    each class, unlabelled images have no such column. A failed or pending row keeps its place: NaN in arrays, empty in
    tables. Memory does not grow with the number of descriptors, except for `.mat`.

    Args:
        descriptors: the file that `extract` or `merge` wrote: its path, or what `read_descriptors` gave.
        output: the file to write; its suffix says which.
        layer: take this layer, or these, stacked; by default all that the file has.
        overwrite: replace it, and the file of names.
        progress: True, a bar on terminals and in notebooks; False, none; or a function, called with (rows written,
            rows, rows without a descriptor).

    Raises UsageError for another suffix or a missing package, StoreError for a file that cannot be read, that exists,
    or that is too large for its format.
    """
    target = Path(output)
    if target.suffix not in EXPORT_FORMATS:
        raise UsageError(f"{target}: the suffix says what to write: {', '.join(EXPORT_FORMATS)}")
    made = as_descriptors(descriptors)
    made = made.choose(layer) if layer else made
    warn_of_part(made)
    names = _names_beside(target) if target.suffix == ".npy" else None
    with OutputLock(target):
        for path in (target, *([] if names is None else [names])):
            if path.exists() and not overwrite:
                raise StoreError(f"{path} exists: `overwrite` replaces it, `output` names another file")
        try:
            _WRITERS[target.suffix](made, target, _apart(callback(progress)))
        except _ProgressError as error:
            raise error.cause from None
    return Exported(target, names, len(made), len(made) - len(made.done))


class _ProgressError(Exception):
    """An OSError of the caller's own function, apart from those of the files."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _apart(progress: Progress | None) -> Progress | None:
    """The caller's function, whose OSErrors would be taken for those of writing."""
    if progress is None:
        return None

    def tick(done: int, total: int, failed: int) -> None:
        try:
            progress(done, total, failed)
        except OSError as error:
            raise _ProgressError(error) from error

    return tick


def _write_npy(made: Descriptors, target: Path, progress: Progress | None) -> None:
    """The matrix and its file of names. Neither is replaced before both are complete: they must fit each other."""
    with replacing(target) as temporary:
        with temporary.open("wb") as stream:
            _stream_matrix(made, stream, progress)
            stream.flush()
            os.fsync(stream.fileno())  # a disk that is full is told now, not between the two renames
        _write_csv(made, _names_beside(target), None, values=False)


def _names_beside(matrix: Path) -> Path:
    return matrix.with_suffix(".csv")


def _stream_matrix(made: Descriptors, stream: IO[bytes], progress: Progress | None) -> None:
    """The descriptors in NumPy's format. A stream, not a memory map: a full disk is an error that names the file."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(made), made.dim)}
    np.lib.format.write_array_header_1_0(stream, header)
    for _, values in _blocks(made, progress):
        stream.write(values.astype("<f4", copy=False).tobytes())


def _write_npz(made: Descriptors, target: Path, progress: Progress | None) -> None:
    with (
        replacing(target) as temporary,
        temporary.open("wb") as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive,
    ):
        with archive.open("descriptors.npy", "w", force_zip64=True) as entry:
            _stream_matrix(made, entry, progress)
        for name, values in _arrays(made).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)


def _write_mat(made: Descriptors, target: Path, progress: Progress | None) -> None:
    from scipy.io import savemat

    if 4 * len(made) * made.dim > MOST_MAT:
        raise StoreError(f"{target}: {len(made)} x {made.dim} values are too large for MATLAB's format: write .npy")
    arrays = _arrays(made)
    if made.labels is not None and made.labels.ndim == 1:
        arrays["labels"] = made.labels + 1  # MATLAB's indices begin there
    for name, values in arrays.items():
        if isinstance(values, list):  # a cell array
            arrays[name] = np.array(list(map(_utf8, values)), dtype=object)
    matrix = np.concatenate([values for _, values in _blocks(made, progress)] or [made.read()])
    with replacing(target) as temporary, temporary.open("wb") as stream:
        savemat(stream, {"descriptors": matrix, **arrays}, oned_as="column")


def _write_parquet(made: Descriptors, target: Path, progress: Progress | None) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(".parquet needs the package pyarrow: pip install 'vggfeat[parquet]'") from None
    arrays, labels, errors = pyarrow.array, _Labels(made), made.errors()
    text, number = pyarrow.string(), pyarrow.int8()
    single = made.labels is None or made.labels.ndim == 1
    fields = [("id", text), *((name, text if single else number) for name in labels.columns)]
    fields += [("subset", text), ("status", text), ("error", text)]
    schema = pyarrow.schema([*fields, ("descriptor", pyarrow.list_(pyarrow.float32(), made.dim))])
    with replacing(target) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for start, block in _blocks(made, progress, most=1024):
            rows = range(start, start + len(block))
            table = [[*_names(made, labels, row), errors.get(made.ids[row])] for row in rows]
            columns = [
                arrays(
                    [int(value) for value in column] if field.type == number else list(map(_utf8, column)), field.type
                )
                for column, field in zip(zip(*table, strict=True), schema, strict=False)
            ]
            missing = arrays(made.status[start : start + len(block)] != DONE)
            values = pyarrow.FixedSizeListArray.from_arrays(arrays(block.ravel()), made.dim, mask=missing)
            try:
                writer.write_table(pyarrow.Table.from_arrays([*columns, values], schema=schema))
            except pyarrow.ArrowNotImplementedError as error:  # a missing value among lists of fixed length
                raise StoreError(
                    f"{target}: rows without a descriptor need pyarrow 26 or later in a Parquet file: "
                    "pip install -U pyarrow, or export to .npz"
                ) from error


def _utf8(text: str | None) -> str | None:
    """A text with its bytes outside UTF-8 as escapes such as `\\udce9`, for formats that take UTF-8 alone."""
    return text if text is None else text.encode("utf-8", "backslashreplace").decode()


def _arrays(made: Descriptors) -> dict[str, Any]:
    """What belongs to the matrix, as arrays and lists of text."""
    errors = made.errors()
    arrays: dict[str, Any] = {
        "ids": made.ids,
        "subset": made.subset,
        "status": [_STATUS[int(value)] for value in made.status],
        "errors": [errors.get(id, "") for id in made.ids],
    }
    if made.labels is not None:
        arrays |= {"labels": made.labels, "class_names": list(made.class_names)}
    return arrays


def _write_csv(made: Descriptors, target: Path, progress: Progress | None, *, values: bool = True) -> None:
    labels = _Labels(made)
    # Names outside UTF-8 are written as their bytes.
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


_WRITERS = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".mat": _write_mat,
    ".parquet": _write_parquet,
}


def _blocks(made: Descriptors, progress: Progress | None, most: int = 256) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, values) block by block, of at most `most` rows."""
    rows = max(1, min(most, BLOCK_BYTES // (4 * made.dim)))
    missing = len(made) - len(made.done)
    start = 0
    for values in made.blocks(rows):
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
    # With "\n" as its line end, csv of Python 3.12 and older leaves a "\r" unquoted, which readers take for a line end.
    csv.writer(line, lineterminator="\r\n").writerow(fields)
    return line.getvalue().removesuffix("\r\n") + "\n"
