"""The descriptor file (HDF5): schema, fingerprint, appending, resuming, reading. The only file that opens them.

A row exists when its status says so: its values are flushed to the file before its status is. With HDF5's default
library version, a process killed at any instant leaves a file that opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vggfeat._version import __version__
from vggfeat.datasets import Dataset
from vggfeat.errors import StoreError
from vggfeat.files import replacing
from vggfeat.hdf5 import own_dataset
from vggfeat.pooling import Aggregate, Described, combine

FORMAT = "vggfeat-descriptors"
FORMAT_VERSION = 1

PENDING, DONE, FAILED = 0, 1, 2
"""Values of `status`."""

MAX_REASON = 200
"""Most bytes of a failed row's reason."""

_TEXT = h5py.string_dtype()


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash of all that changes a value: the extractor's provenance and how rows are stored."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class DescriptorWriter:
    """A descriptor file open for writing: made anew, or resumed where settings and list are the same.

    Args:
        path: the file.
        dataset: the samples, in the order of their rows.
        settings: `Extractor.provenance()`.
        dim: length of a descriptor.
        layer_dims: length of each part's layer, for the kept scales.
        store: "float32" or "float16", the type in the file.
        keep_scales: store each scale's activations too.
        resume: go on with a file that exists. overwrite: replace it. Neither: it must not exist.

    Raises StoreError where the file exists, is in use, or was made otherwise (it names the first difference).
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
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.dataset = dataset
        self._settings = {**settings, "store": store, "keep_scales": keep_scales}
        if self.path.exists() and not resume and not overwrite:
            raise StoreError(f"{self.path} exists: --resume goes on with it, --overwrite replaces it")
        self._file = self._resumed() if resume and self.path.exists() else None
        if self._file is None:
            self._file = self._created(dim, layer_dims, store, keep_scales)
        self.status: NDArray[np.uint8] = self._file["status"][:]

    def _resumed(self) -> h5py.File:
        file = _open(self.path, "r+")
        try:
            _check_format(self.path, file)
            made = json.loads(file.attrs["settings"])
            difference = _first_difference(made, json.loads(json.dumps(self._settings)))
            if difference:
                raise StoreError(
                    f"{self.path} was made with other settings ({difference}): --overwrite replaces it, "
                    "-o names another file"
                )
            _check_same_ids(self.path, _read_text(file["ids"]), [sample.id for sample in self.dataset.samples])
        except BaseException:
            file.close()
            raise
        return file

    def _created(self, dim: int, layer_dims: Sequence[int], store: str, keep_scales: bool) -> h5py.File:
        if self.path.exists() and h5py.is_hdf5(self.path):
            # Taken for writing first, so that a file that another process is writing to is never replaced.
            _open(self.path, "r+").close()
        with replacing(self.path) as temporary:
            file = _open(temporary, "w")
            self._lay_out(file, dim, layer_dims, store, keep_scales)
            file.close()
        return _open(self.path, "r+")

    def _lay_out(self, file: h5py.File, dim: int, layer_dims: Sequence[int], store: str, keep_scales: bool) -> None:
        samples = self.dataset.samples
        n = len(samples)
        # Everything has its place from the start, so that later writes change bytes of data alone and never the
        # file's own structure: that is what lets a killed process leave a whole file. The space is sparse.
        _allocate(file, "descriptors", (n, dim), np.dtype(store))
        if keep_scales:
            _allocate(file, "scales", (n, sum(layer_dims) * len(self._settings["scales"])), np.dtype(store))
        _allocate(file, "errors", (n,), np.dtype(f"S{MAX_REASON}"))
        _allocate(file, "status", (n,), np.dtype(np.uint8))
        for name, values in (
            ("ids", [sample.id for sample in samples]),
            ("subset", [sample.subset for sample in samples]),
            ("class_names", self.dataset.class_names),
        ):
            file.create_dataset(name, data=np.array(_text(values), dtype=object), dtype=_TEXT)
        labels = _label_array(self.dataset)
        if labels is not None:
            file.create_dataset("labels", data=labels)
        for name, value in self._attributes(layer_dims, labels is not None).items():
            file.attrs[name] = value

    def _attributes(self, layer_dims: Sequence[int], labelled: bool) -> dict[str, Any]:
        settings = self._settings
        nets = settings["nets"]
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint(settings),
            "settings": json.dumps(settings, sort_keys=True),
            "dataset": self.dataset.name,
            "labelled": labelled,
            "net": "+".join(net["net"] for net in nets),
            "weights": "+".join(net["weights"] for net in nets),
            "weights_sha256": "+".join(net["weights_sha256"] for net in nets),
            "preprocessing": json.dumps([net["preprocessing"] for net in nets]),
            "layer_dims": np.asarray(layer_dims),
            **{
                name: settings[name] for name in ("scales", "aggregate", "flip", "layer", "precision", "region", "exif")
            },
            "vggfeat_version": __version__,
            **_library_versions(),
        }

    def pending(self, blocks: Sequence[range]) -> list[range]:
        """Those of the blocks of rows that hold a row still to do; failed rows are tried again."""
        return [rows for rows in blocks if (self.status[rows.start : rows.stop] != DONE).any()]

    def write(self, rows: range, described: Described) -> None:
        """Writes those rows of a block that were not done before, values first, then their status."""
        assert self._file is not None
        todo = np.flatnonzero(self.status[rows.start : rows.stop] != DONE)
        target = todo + rows.start
        reasons = [described.failures.get(int(row), "") for row in todo]
        try:
            for row in todo:
                self._file["descriptors"][rows.start + row] = described.descriptors[row]
                if "scales" in self._file:
                    self._file["scales"][rows.start + row] = described.scales[row]
            if any(reasons) or (self.status[target] == FAILED).any():
                self._file["errors"][target] = [_text([reason])[0][:MAX_REASON] for reason in reasons]
            self._file.flush()
            self.status[target] = [FAILED if reason else DONE for reason in reasons]
            self._file["status"][rows.start : rows.stop] = self.status[rows.start : rows.stop]
            self._file.flush()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write ({_os_reason(error)}): mend that, then --resume") from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> DescriptorWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Descriptors:
    """A descriptor file's contents; the descriptors themselves are read on demand."""

    path: Path
    ids: list[str]
    labels: NDArray[np.int64] | NDArray[np.int8] | None
    """(N,) class indices, or (N, K) of 1, 0 (difficult), -1, or None."""
    subset: list[str]
    status: NDArray[np.uint8]
    """(N,): 0 pending, 1 done, 2 failed."""
    class_names: tuple[str, ...]
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def done(self) -> NDArray[np.intp]:
        """Rows that hold a descriptor."""
        return np.flatnonzero(self.status == DONE)

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return int(self.attributes["dim"])

    def read(self, rows: NDArray[np.integer[Any]] | Sequence[int] | None = None) -> NDArray[np.float32]:
        """(n, D) float32 descriptors of these rows, all by default; rows not done are NaN."""
        return self._read("descriptors", rows)

    def read_parts(self, rows: NDArray[np.integer[Any]] | Sequence[int] | None = None) -> list[NDArray[np.float32]]:
        """Kept scales: per net and region (n, S, D_layer) activations, unnormalised. StoreError where none are kept."""
        if not self.attributes["keep_scales"]:
            raise StoreError(f"{self.path} keeps no single scales: extract with --keep-scales")
        flat = self._read("scales", rows)
        dims = [int(dim) for dim in self.attributes["layer_dims"]]
        scales = len(self.attributes["scales"])
        ends = np.cumsum([dim * scales for dim in dims])[:-1]
        return [
            part.reshape(len(flat), scales, dim) for part, dim in zip(np.split(flat, ends, axis=1), dims, strict=True)
        ]

    def aggregated(
        self, aggregate: Aggregate, rows: NDArray[np.integer[Any]] | Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """(n, D') descriptors with the scales aggregated otherwise than in the file, from its kept scales."""
        return combine(self.read_parts(rows), aggregate)

    def errors(self) -> dict[str, str]:
        """The reason of each failed row, by id."""
        with _reading(self.path) as file:
            reasons = _read_text(file["errors"])
        return {self.ids[row]: reasons[row] for row in np.flatnonzero(self.status == FAILED)}

    def _read(self, name: str, rows: NDArray[np.integer[Any]] | Sequence[int] | None) -> NDArray[np.float32]:
        with _reading(self.path) as file:
            wanted = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.intp)
            # HDF5 takes a sorted list of distinct rows; the caller may want any.
            unique, back = np.unique(wanted, return_inverse=True)
            whole = len(unique) * 2 > len(self)
            values = file[name][:][unique] if whole else file[name][unique]
        values = values.astype(np.float32, copy=False)
        values[self.status[unique] != DONE] = np.nan
        return values if np.array_equal(back, np.arange(len(unique))) else values[back]


def read_descriptors(path: str | Path) -> Descriptors:
    """Opens a descriptor file: ids, labels and settings now, descriptors on demand.

    Raises StoreError where it is no descriptor file, of a newer format, or damaged.
    """
    path = Path(path)
    with _reading(path) as file:
        labels = file["labels"][:] if "labels" in file else None
        attributes = {name: _plain(value) for name, value in file.attrs.items()}
        settings = json.loads(attributes["settings"])
        attributes |= {"settings": settings, "keep_scales": "scales" in file, "dim": file["descriptors"].shape[1]}
        attributes["preprocessing"] = json.loads(attributes["preprocessing"])
        return Descriptors(
            path,
            _read_text(file["ids"]),
            labels,
            _read_text(file["subset"]),
            file["status"][:],
            tuple(_read_text(file["class_names"])),
            attributes,
        )


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """The file open for reading, its errors made ours."""
    file = _open(path, "r")
    try:
        _check_format(path, file)
        yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(f"{path}: damaged descriptor file ({error})") from error
    finally:
        file.close()


def _open(path: Path, mode: str) -> h5py.File:
    """h5py.File, with one sentence for each way of failing. Readers take no lock: a file being written can be read."""
    try:
        return h5py.File(path, mode, locking=mode != "r")
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise StoreError(f"{path} is a folder") from None
    except PermissionError:
        raise StoreError(f"{path}: permission denied") from None
    except OSError as error:
        if "lock" in str(error):
            raise StoreError(f"{path} is being written by another process: wait for it, or name another -o") from None
        if mode != "w" and path.is_file() and not h5py.is_hdf5(path):
            raise StoreError(f"{path} is no descriptor file (no HDF5)") from None
        raise StoreError(f"{path}: cannot open ({_os_reason(error)})") from None


_DATASETS = ("descriptors", "scales", "ids", "errors", "status", "subset", "class_names", "labels")


def _check_format(path: Path, file: h5py.File) -> None:
    """Refuses what is no descriptor file, a newer format, and data that lies outside of the file."""
    if file.attrs.get("format") != FORMAT:
        raise StoreError(f"{path} is no descriptor file of vggfeat's")
    version = int(file.attrs.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise StoreError(f"{path} has format version {version}, this vggfeat reads up to {FORMAT_VERSION}: update it")
    for name in _DATASETS:
        if file.get(name, getlink=True) is None:
            if name in ("scales", "labels"):
                continue
            raise StoreError(f"{path}: damaged descriptor file (no {name!r})")
        data = own_dataset(file, name)
        if data is None:
            raise StoreError(f"{path}: {name!r} points outside of the file, refused")
        if name != "class_names" and data.shape[:1] != file["ids"].shape:
            raise StoreError(f"{path}: damaged descriptor file ({name!r} has {data.shape} for {file['ids'].shape} ids)")


def _first_difference(made: Any, asked: Any, name: str = "") -> str:
    """What differs first between two settings, as words; "" where nothing does."""
    if isinstance(made, dict) and isinstance(asked, dict):
        for key in sorted({*made, *asked}, key=str):
            difference = _first_difference(made.get(key), asked.get(key), f"{name}.{key}" if name else str(key))
            if difference:
                return difference
        return ""
    if isinstance(made, list) and isinstance(asked, list) and len(made) == len(asked) and name == "nets":
        return next((d for a, b in zip(made, asked, strict=True) if (d := _first_difference(a, b, "net"))), "")
    if made == asked:
        return ""
    return f"{name} {_short(made)} there, {_short(asked)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


def _check_same_ids(path: Path, there: list[str], here: list[str]) -> None:
    for row, (a, b) in enumerate(zip(there, here, strict=False)):
        if a != b:
            raise StoreError(f"{path} was made from another list: row {row} is {a!r} there, {b!r} here")
    if len(there) != len(here):
        raise StoreError(f"{path} was made from another list: {len(there)} rows there, {len(here)} here")


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """An unwritten data set of zeros whose place in the file is already taken."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # no clock times: equal runs make equal files
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, properties)


def _label_array(dataset: Dataset) -> NDArray[Any] | None:
    """(N,) int64 class indices or (N, K) int8 of 1, 0, -1; None where a sample has no label."""
    labels = [sample.labels for sample in dataset.samples]
    if not labels or any(label is None for label in labels):
        return None
    return np.asarray(labels, dtype=np.int64 if isinstance(labels[0], int) else np.int8)


def _library_versions() -> dict[str, str]:
    # Through the metadata: importing torch here would cost a reader of the file three seconds.
    from importlib.metadata import version

    return {f"{name}_version": version(name) for name in ("torch", "numpy", "pillow")} | {
        "python_version": platform.python_version()
    }


def _text(values: Sequence[str]) -> list[bytes]:
    """Names as bytes: what is no UTF-8 in a file name goes in, and comes out, as it is."""
    return [os.fsencode(value) for value in values]


def _read_text(data: h5py.Dataset) -> list[str]:
    return [os.fsdecode(value) for value in data[:]]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def _os_reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error).partition(",")[0]
