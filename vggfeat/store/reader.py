"""Reading a descriptor file: names and settings at once, descriptors on demand."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import StoreError, UsageError
from vggfeat.nets.wording import nets_words
from vggfeat.store.choices import LAYER_SEPARATOR, POSTERIORS
from vggfeat.store.layers import StoredLayer, chosen_layers, joined, stored_layers
from vggfeat.store.naming import Naming
from vggfeat.store.pooling import AGGREGATES, Aggregate, as_scales, check_distinct_scales, combine
from vggfeat.store.schema import DONE, FAILED, plain_attributes, read_text, reading, reading_rows
from vggfeat.store.shards import Portion
from vggfeat.system.numbers import number_of
from vggfeat.system.row_numbers import row_numbers
from vggfeat.system.values import one_of, whole

log = logging.getLogger(__name__)

Rows = NDArray[np.integer[Any]] | NDArray[np.bool_] | Sequence[int] | None
"""Row numbers from 0, in any order, or a mask (N,) of all rows; None for all."""


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Descriptors:
    """A descriptor file's contents; the descriptors are read on demand."""

    path: Path
    ids: list[str]
    labels: NDArray[np.int64] | NDArray[np.int8] | None
    """(N,) class indices, or (N, K) of 1, 0 (difficult), -1, or None."""
    subset: list[str]
    status: NDArray[np.uint8]
    """(N,): 0 pending, 1 done, 2 failed."""
    class_names: tuple[str, ...]
    attributes: dict[str, Any]
    layers: tuple[StoredLayer, ...]
    """Those that are read; `choose` takes some of them."""
    stored: str = ""
    """The `layer` of the whole file where `choose` took only some of its layers; else empty."""
    identity: tuple[int, int, int] = (0, 0, 0)
    """(st_dev, st_ino, st_mtime_ns) of the file that was opened; the time too, because inode numbers are reused."""
    absolute: Path = Path()
    """Where the file lies, whatever the working directory is later."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def place(self) -> Path:
        """The path as it was given, while that leads to the file; else the absolute one."""
        return self.path if self.path.absolute() == self.absolute else self.absolute

    def __repr__(self) -> str:
        return f"<Descriptors {self.path}: {len(self)} x {self.dim}, {self.attributes['dataset']}, net {self.nets}>"

    @property
    def nets(self) -> str:
        """The nets with their widths and weights, in words."""
        return nets_words(self.attributes["settings"]["nets"])

    @property
    def done(self) -> NDArray[np.intp]:
        """(n,) the rows that hold a descriptor, ascending."""
        return np.flatnonzero(self.status == DONE)

    @property
    def holds_posteriors(self) -> bool:
        """Whether the rows are class posteriors (`vggfeat evaluate`), not descriptors."""
        return bool(self.attributes["layer"] == POSTERIORS)

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return int(self.attributes["dim"])

    @property
    def portion(self) -> Portion | None:
        """Which rows of a longer list these are, in a shard; None in a whole file."""
        return Portion.of(self.attributes)

    @property
    def naming(self) -> Naming:
        """How the user named the images and the weights."""
        return Naming.of(self.attributes)

    @property
    def made_by(self) -> dict[str, Any]:
        """The settings that made the whole file, whatever layers were chosen since."""
        settings: dict[str, Any] = self.attributes["settings"]
        return settings | {"layer": self.stored} if self.stored else settings

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the layers that `choose` took; empty where all are read."""
        return tuple(layer.name for layer in self.layers) if self.stored else ()

    @property
    def _raw(self) -> bool:
        return self.attributes["settings"].get("normalise") == "none"

    def choose(self, layers: str | Sequence[str]) -> Descriptors:
        """The same file, of which these layers alone are read, in this order.

        Raises StoreError for one that it lacks, UsageError without any and for one that is named twice.
        """
        names = [layers] if isinstance(layers, str) else layers
        if not len(names):
            raise UsageError(f"no layer is named; {self.path} has {', '.join(layer.name for layer in self.layers)}")
        chosen = chosen_layers(self.path, self.layers, names, narrowed=bool(self.stored))
        name = LAYER_SEPARATOR.join(layer.name for layer in chosen)
        changed = {
            "layer": name,
            "layer_dims": tuple(dim for layer in chosen for dim in layer.dims),
            "dim": sum(layer.length for layer in chosen),
            "settings": self.attributes["settings"] | {"layer": name},
        }
        stored = self.stored or str(self.attributes["layer"])
        return replace(
            self, layers=chosen, attributes=self.attributes | changed, stored="" if name == stored else stored
        )

    def read(self, rows: Rows = None) -> NDArray[np.float32]:
        """(n, D) float32 descriptors of these rows, all by default; rows not done are NaN.

        Several layers are stacked, each at unit length, and divided by the root of their number.

        Args:
            rows: their numbers from 0, in any order, or a mask of all rows, such as `made.labels == 3`.

        Raises UsageError for a row that the file does not have and a mask of another length.
        """
        return joined(self._read("descriptors", rows, self._columns), raw=self._raw)

    def blocks(self, size: int = 256, start: int = 0) -> Iterator[NDArray[np.float32]]:
        """The descriptors from row `start` on as (at most `size`, D) float32, for large files; see `read`."""
        size, start = whole("size", size, 1), whole("start", start, 0)
        with self._reading() as file:
            for first in range(start, len(self), size):
                some = np.arange(first, min(first + size, len(self)))
                yield joined(self._cut(file["descriptors"], some, self._columns), raw=self._raw)

    def read_parts(self, rows: Rows = None) -> list[NDArray[np.float32]]:
        """Kept scales: per layer, net and region (n, S, D_layer) activations, unnormalised.

        Raises StoreError where none are kept.
        """
        return [part for parts in self._parts(rows) for part in parts]

    def aggregated(
        self, aggregate: Aggregate, rows: Rows = None, scales: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """(n, D') descriptors with the kept scales, or some of them, aggregated otherwise than in the file.

        Raises UsageError for an unknown aggregation, StoreError for a scale that the file does not have.
        """
        one_of("aggregation", aggregate, AGGREGATES)
        layers = self._parts(rows, None if scales is None else as_scales(scales))
        return joined([combine(parts, aggregate, raw=self._raw) for parts in layers], raw=self._raw)

    @property
    def _columns(self) -> list[slice]:
        """Of each layer's descriptor."""
        return [layer.columns for layer in self.layers]

    def _parts(self, rows: Rows, scales: Sequence[int] | None = None) -> list[list[NDArray[np.float32]]]:
        """By layer, the kept scales of each of its parts, (n, S, D_layer); only these scales are read."""
        if not self.attributes["keep_scales"]:
            raise StoreError(f"{self.path} keeps no single scales: extract with `keep_scales`")
        kept = self.attributes["scales"]
        check_kept_scales(self, scales)
        places = [place for place, Q in enumerate(kept) if scales is None or Q in scales]
        columns = []
        for layer in self.layers:
            start = layer.kept.start
            for dim in layer.dims:
                columns += [slice(start + place * dim, start + (place + 1) * dim) for place in places]
                start += dim * len(kept)
        pieces = iter(self._read("scales", rows, columns))
        return [[np.stack([next(pieces) for _ in places], axis=1) for _ in layer.dims] for layer in self.layers]

    def errors(self) -> dict[str, str]:
        """The reason of each failed row, by id."""
        with self._reading() as file:
            reasons = read_text(file["errors"])
        return {self.ids[row]: reasons[row] for row in np.flatnonzero(self.status == FAILED)}

    def _read(self, name: str, rows: Rows, columns: Sequence[slice]) -> list[NDArray[np.float32]]:
        """These rows, all if None, of each slice of columns."""
        # HDF5 needs sorted, distinct rows.
        unique, back = np.unique(self._numbers(rows), return_inverse=True)
        with self._reading() as file:
            parts = self._cut(file[name], unique, columns)
        return parts if np.array_equal(back, np.arange(len(unique))) else [part[back] for part in parts]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[h5py.File]:
        """The file, which must still be the one that was opened: other images would get these ids and labels."""
        with reading_rows(self.place) as file:
            if _identity(self.place) != self.identity:
                now = read_descriptors(self.place)
                same = now.attributes["fingerprint"] == self.attributes["fingerprint"] and now.ids == self.ids
                if not (same and now.class_names == self.class_names and _equal(now.labels, self.labels)):
                    raise StoreError(f"{self.path} has been replaced since it was opened: open it again")
            yield file

    def _numbers(self, rows: Rows) -> NDArray[np.intp]:
        """The numbers of these rows, all if None. Raises UsageError unless they are rows of this file."""
        if rows is None:
            return np.arange(len(self))
        try:
            return row_numbers(rows, len(self), str(self.path))
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _cut(self, stored: h5py.Dataset, rows: NDArray[np.intp], columns: Sequence[slice]) -> list[NDArray[np.float32]]:
        """These rows, ascending, of each slice of columns; those of failed and pending images are NaN.

        Slices that follow each other are read together. Many rows are cut out of all: HDF5 is slow at single ones.
        """
        missing = self.status[rows] != DONE
        first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        consecutive = last - first == len(rows)
        few = len(rows) * 2 <= len(self)
        parts: list[NDArray[np.float32]] = []
        for run in _runs(columns):
            span = slice(run[0].start, run[-1].stop)
            if consecutive or not few:
                values = stored[first:last, span]
                values = values if consecutive else values[rows - first]
            else:
                values = stored[rows, span]
            values = values.astype(np.float32, copy=False)
            values[missing] = np.nan
            parts += [values[:, one.start - span.start : one.stop - span.start] for one in run]
        return parts


def check_kept_scales(file: Descriptors, scales: Sequence[int] | None) -> None:
    """Raises UsageError unless there is a scale and none is named twice, StoreError for one that the file lacks."""
    if scales is not None:
        check_distinct_scales(scales)
    for Q in scales or ():
        if Q not in file.attributes["scales"]:
            there = ", ".join(map(str, file.attributes["scales"]))
            raise StoreError(f"{file.path} has no scale {Q}; it has {there}")


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells a file from one that has replaced it."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _equal(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def _runs(slices: Sequence[slice]) -> list[list[slice]]:
    """Slices in groups, each of which covers one span without gaps, in order."""
    runs: list[list[slice]] = []
    for one in slices:
        if runs and runs[-1][-1].stop == one.start:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs


def read_descriptors(path: str | os.PathLike[str]) -> Descriptors:
    """Opens a descriptor file: ids, labels and settings now, descriptors on demand.

    Args:
        path: a file that `extract` or `merge` wrote.

    Raises StoreError for a file that is not a descriptor file, has a newer format, or is damaged.
    """
    path = Path(path)
    with reading(path) as file:
        attributes = plain_attributes(file) | shape_of(file)
        return Descriptors(
            path,
            read_text(file["ids"]),
            _labels(file),
            read_text(file["subset"]),
            file["status"][:],
            tuple(read_text(file["class_names"])),
            attributes,
            stored_layers(attributes),
            identity=_identity(path),
            absolute=path.absolute(),
        )


File = str | os.PathLike[str] | Descriptors
"""A descriptor file by its path, or opened."""


def as_file(given: object) -> File:
    """What names a descriptor file or is one. Raises UsageError for anything else."""
    if isinstance(given, str | os.PathLike | Descriptors):
        return given
    raise UsageError(
        f"{type(given).__name__} is not a descriptor file: give its path, or what vggfeat.read_descriptors gave"
    )


def as_descriptors(given: File) -> Descriptors:
    """A descriptor file as it is now; of an opened one those layers that were chosen.

    Raises UsageError for anything else than a file, and what `read_descriptors` raises.
    """
    if isinstance(given, Descriptors):
        now = read_descriptors(given.place)
        return now if now.layers == given.layers else now.choose([layer.name for layer in given.layers])
    return read_descriptors(as_file(given))  # type: ignore[arg-type]


def warn_of_part(made: Descriptors) -> None:
    """Warns that a file is one shard, for a run that makes sense with its rows alone."""
    if made.portion is not None:
        log.warning("%s is %s: its rows alone count", made.path, made.portion)


def files_in(given: File | Sequence[File]) -> list[File]:
    """One file or several, as a list. Raises UsageError for what is neither."""
    several = isinstance(given, Iterable) and not isinstance(given, str | Descriptors)
    return list(given) if several else [as_file(given)]  # type: ignore[arg-type]


def place_of(file: File) -> Path:
    """Where a file lies."""
    return file.place if isinstance(file, Descriptors) else Path(file)


def _labels(file: h5py.File) -> NDArray[Any] | None:
    """The labels, if any. Raises ValueError unless they are valid indices of the classes."""
    if "labels" not in file:
        return None
    labels: NDArray[Any] = file["labels"][:]
    classes = len(file["class_names"])
    low, high = (0, classes - 1) if labels.ndim == 1 else (-1, 1)
    if (labels.ndim == 2 and labels.shape[1] != classes) or (labels < low).any() or (labels > high).any():
        raise ValueError(f"labels that do not fit its {number_of(classes, 'class')}")
    return labels


def shape_of(file: h5py.File) -> dict[str, Any]:
    """Facts that follow from the data sets' shapes, named like attributes."""
    return {"keep_scales": "scales" in file, "dim": int(file["descriptors"].shape[1])}
