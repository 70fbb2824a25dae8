"""Filling a descriptor file block by block, and resuming it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import StoreError, UsageError
from vggfeat.store.locking import OutputLock
from vggfeat.store.naming import Naming
from vggfeat.store.pooling import BEYOND_FLOAT16, Described, beyond_float16
from vggfeat.store.rows import RowFile
from vggfeat.store.schema import (
    DONE,
    EXPORT_FORMATS,
    FAILED,
    MAX_REASON,
    PENDING,
    TEXT_ROWS,
    CutShortError,
    Layout,
    attributes_of,
    check_format,
    first_difference,
    is_descriptor_file,
    opened,
    os_reason,
    read_text,
    text_array,
    text_bytes,
    versions_here,
    write_all,
)
from vggfeat.store.shards import Portion
from vggfeat.system.files import check_replaceable, check_writable, exists, is_file, replacing
from vggfeat.system.hdf5 import DAMAGE, damage, is_hdf5, written
from vggfeat.system.numbers import number_of


class DescriptorWriter:
    """A descriptor file open for writing: a new one, or one to resume if settings and list are the same.

    Args:
        path: the file.
        dataset: the samples, in the order of their rows.
        settings: `Extractor.provenance()`.
        dim: length of a descriptor.
        layer_dims: length of each part's layer, for the kept scales.
        store: "float32" or "float16", the type in the file.
        keep_scales: store each scale's activations too.
        portion: which rows of a longer list these samples are, for a shard.
        naming: how the user named the images and the weights.
        resume: continue an existing file. overwrite: replace it. Neither: the file must not exist.

    Raises StoreError if the file exists, is in use, or was made otherwise (naming the first difference).
    """

    def __init__(
        self,
        path: str | Path,
        dataset: Dataset,
        settings: Mapping[str, Any],
        *,
        dim: int,
        layer_dims: Sequence[int],
        store: str = "float32",
        keep_scales: bool = False,
        portion: Portion | None = None,
        naming: Naming | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.dataset = dataset
        self._settings = {**settings, "store": store, "keep_scales": keep_scales}
        self._portion, self._naming = portion, naming or Naming()
        self._hold = OutputLock(self.path)
        try:
            _check_replaceable(self.path, resume, overwrite)
            if resume and self.path.exists():
                self.status = self._resumed()
            else:
                self._create(dim, layer_dims)
                self.status = np.full(len(dataset.samples), PENDING, dtype=np.uint8)
            self._rows: RowFile | None = RowFile(self.path)
        except BaseException:
            self._hold.release()
            raise

    def _resumed(self) -> NDArray[np.uint8]:
        """The status of each row of the existing file, which is checked to be the one to continue."""
        labels = _label_array(self.dataset)
        try:
            file = opened(self.path, "r+")
        except CutShortError as error:
            raise StoreError(f"{error}; `overwrite` replaces it") from error
        try:
            check_format(self.path, file)
            made = json.loads(file.attrs["settings"])
            difference = first_difference(made, json.loads(json.dumps(self._settings)))
            if difference:
                raise StoreError(
                    f"{self.path} was made with other settings ({difference}): `overwrite` replaces it, "
                    "`output` names another file"
                )
            _check_same_ids(self.path, read_text(file["ids"]), [sample.id for sample in self.dataset.samples])
            _check_same_portion(self.path, Portion.of(file.attrs), self._portion)
            _check_same_classes(self.path, read_text(file["class_names"]), self.dataset.class_names)
            _check_same_labels(self.path, file["labels"][:] if "labels" in file else None, labels, self.dataset)
            _check_same_subsets(self.path, read_text(file["subset"]), self.dataset.samples)
            status: NDArray[np.uint8] = file["status"][:]
            return status
        except DAMAGE as error:
            why = damage(error)
            raise StoreError(f"{self.path}: damaged descriptor file ({why}); `overwrite` replaces it") from error
        finally:
            file.close()

    def _create(self, dim: int, layer_dims: Sequence[int]) -> None:
        if self.path.exists() and is_hdf5(self.path):
            # Opened for writing first: a file that another program has open must not be replaced.
            with contextlib.suppress(CutShortError):
                opened(self.path, "r+").close()
        with replacing(self.path) as temporary, written(temporary) as file:
            self._lay_out(file, dim, layer_dims)

    def _lay_out(self, file: h5py.File, dim: int, layer_dims: Sequence[int]) -> None:
        samples, settings = self.dataset.samples, self._settings
        labels = _label_array(self.dataset)
        layout = Layout(
            rows=len(samples),
            dim=dim,
            kept=sum(layer_dims) * len(settings["scales"]) if settings["keep_scales"] else 0,
            store=settings["store"],
            class_names=self.dataset.class_names,
            labels=None if labels is None else (labels.ndim, labels.dtype),
        )
        labelled = labels is not None
        layout.create(
            file,
            attributes_of(
                settings, self.dataset.name, layer_dims, labelled, versions_here(), self._naming, self._portion
            ),
        )
        write_all(file["ids"], _named(samples, lambda sample: sample.id))
        write_all(file["subset"], _named(samples, lambda sample: sample.subset))
        if labels is not None:
            write_all(file["labels"], [labels])

    def pending(self, blocks: Sequence[range]) -> list[range]:
        """The blocks with a row to do; failed rows are tried again."""
        return [rows for rows in blocks if (self.status[rows.start : rows.stop] != DONE).any()]

    def write(self, rows: range, described: Described) -> None:
        """Writes the rows of a block that were not done before, values first, then their status."""
        assert self._rows is not None
        todo = np.flatnonzero(self.status[rows.start : rows.stop] != DONE)
        target = todo + rows.start
        parts = {"descriptors": described.descriptors if described.by_layer is None else described.by_layer}
        if "scales" in self._rows:
            parts["scales"] = described.scales
        beyond = beyond_float16(parts.values()) if self._settings["store"] == "float16" else np.zeros(len(rows), bool)
        failures = described.failures | dict.fromkeys(np.flatnonzero(beyond).tolist(), BEYOND_FLOAT16)
        reasons = [failures.get(row, "") for row in todo.tolist()]
        try:
            for row in todo.tolist():
                for name, part in parts.items():
                    values = np.full_like(part[row], np.nan) if beyond[row] else part[row]
                    self._rows.write(name, rows.start + row, values)
            if any(reasons) or (self.status[target] == FAILED).any():
                for place, reason in zip(target, text_bytes(reasons), strict=True):
                    self._rows.write("errors", int(place), np.array(reason[:MAX_REASON]))
            self._rows.sync()
            status = self.status[rows.start : rows.stop].copy()
            status[todo] = [FAILED if row in failures else DONE for row in todo.tolist()]
            self._rows.write("status", rows.start, status)
            self.status[rows.start : rows.stop] = status
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write ({os_reason(error)}): mend that, then `resume`") from error

    def close(self) -> None:
        """Closes the file and lets others write it."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
            self._hold.release()

    def __enter__(self) -> DescriptorWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_output(path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raises what a DescriptorWriter would raise, before a run's work.

    That is StoreError for a file that exists or is in use, VggfeatError where nothing can be written, and UsageError
    for a name that promises another format.
    """
    suffix = Path(path).suffix
    if suffix in EXPORT_FORMATS and (is_file(path) or not exists(path)):  # not a pipe, which is told as one
        raise UsageError(f"{path}: this would be HDF5, not {suffix}: name a .h5 file", advice="export", path=path)
    if not is_file(path):
        check_writable(path)
        return
    with OutputLock(Path(path)):
        _check_replaceable(Path(path), resume, overwrite)


def _check_replaceable(path: Path, resume: bool, overwrite: bool) -> None:
    if path.is_file() and not (resume or overwrite):
        raise StoreError(f"{path} exists: `resume` goes on with it, `overwrite` replaces it")
    if overwrite:
        check_replaceable(path, is_descriptor_file, "a descriptor file")


def _check_same_ids(path: Path, there: list[str], here: list[str]) -> None:
    for row, (a, b) in enumerate(zip(there, here, strict=False)):
        if a != b:
            raise StoreError(f"{path} was made from another list: row {row} is {a!r} there, {b!r} here")
    if len(there) != len(here):
        raise StoreError(f"{path} was made from another list: {number_of(len(there), 'row')} there, {len(here)} here")


def _check_same_portion(path: Path, there: Portion | None, here: Portion | None) -> None:
    """A shard's rows may be equal though the list around them changed, or was cut otherwise."""
    if there != here:
        raise StoreError(
            f"{path} was made from another list: it is {there or 'the whole of one'} there, "
            f"{here or 'the whole of one'} here{'' if not there or not here else ', or other ids around its own'}"
        )


def _check_same_classes(path: Path, there: Sequence[str], here: Sequence[str]) -> None:
    """Their order counts too: it is that of the labels' indices and of the columns of posteriors."""
    for place, (a, b) in enumerate(zip(there, here, strict=False)):
        if a != b:
            raise _annotated_otherwise(path, "classes", f"class {place} is {a!r} there, {b!r} here")
    if len(there) != len(here):
        raise _annotated_otherwise(path, "classes", f"{number_of(len(there), 'class')} there, {len(here)} here")


def _check_same_labels(path: Path, there: NDArray[Any] | None, here: NDArray[Any] | None, dataset: Dataset) -> None:
    """The ids and classes are the same. Labels that were corrected since would be lost without a word."""
    if there is None or here is None:
        if there is not here:
            raise _annotated_otherwise(path, "labels", "none there" if there is None else "none here")
        return
    if there.shape != here.shape:
        kinds = ["one for each class" if labels.ndim == 2 else "one class an image" for labels in (there, here)]
        raise _annotated_otherwise(path, "labels", "{} there, {} here".format(*kinds))
    different = np.argwhere(there != here)
    if len(different):
        at = tuple(map(int, different[0]))
        a, b = (_label_words(labels[at], dataset.class_names, *at[1:]) for labels in (there, here))
        raise _annotated_otherwise(path, "labels", f"{dataset.samples[at[0]].id!r} is {a} there, {b} here")


def _check_same_subsets(path: Path, there: Sequence[str], samples: Sequence[Sample]) -> None:
    for a, sample in zip(there, samples, strict=True):
        if a != sample.subset:
            raise _annotated_otherwise(path, "subsets", f"{sample.id!r} is in {a!r} there, {sample.subset!r} here")


def _annotated_otherwise(path: Path, what: str, difference: str) -> StoreError:
    return StoreError(
        f"{path} was made with other {what} ({difference}): `overwrite` describes anew, `output` names another file"
    )


def _label_words(label: int, names: Sequence[str], column: int | None = None) -> str:
    if column is not None:
        return f"{label} for {names[column]!r}"
    return repr(names[label]) if 0 <= label < len(names) else f"class {label}"


def _named(samples: Sequence[Sample], name: Callable[[Sample], str]) -> Iterator[NDArray[np.object_]]:
    for start in range(0, len(samples), TEXT_ROWS):
        yield text_array(map(name, samples[start : start + TEXT_ROWS]))


def _label_array(dataset: Dataset) -> NDArray[Any] | None:
    """(N,) int64 class indices or (N, K) int8 of 1, 0, -1; None where a sample has no label."""
    labels = [sample.labels for sample in dataset.samples]
    if not labels or any(label is None for label in labels):
        return None
    return np.asarray(labels, dtype=np.int8 if isinstance(labels[0], tuple) else np.int64)
