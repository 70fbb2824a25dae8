"""A descriptor file's data sets and attributes: laying them out, opening and checking files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vggfeat._version import __version__
from vggfeat.errors import StoreError
from vggfeat.store.choices import POSTERIORS
from vggfeat.store.layers import StoredLayer, stored_layers
from vggfeat.store.naming import Naming
from vggfeat.store.provenance import LATER, check_provenance
from vggfeat.store.shards import Portion
from vggfeat.system.files import folder_error
from vggfeat.system.hdf5 import CUT_SHORT, DAMAGE, damage, is_hdf5, is_open_here, open_to_read, own_dataset, texts
from vggfeat.system.locking import NO_LOCKS
from vggfeat.system.numbers import number_of
from vggfeat.system.text import name_bytes, name_of

OWN = "vggfeat-"
"""How formats of vggfeat's own files begin; what follows is the kind in words."""

EXPORT_FORMATS = (".npy", ".npz", ".csv", ".mat", ".parquet")
"""Suffixes of what `export` writes for other tools."""

FORMAT = f"{OWN}descriptors"
FORMAT_VERSION = 1

PENDING, DONE, FAILED = 0, 1, 2
"""Values of `status`."""

MAX_REASON = 200
"""Most bytes of a failed row's reason."""

TEXT_ROWS = 1 << 16
"""Names written or read at once, so that a long list is not in memory twice."""

_TEXT = h5py.string_dtype()
_DATASETS = {
    "descriptors": ("f", 2),
    "scales": ("f", 2),
    "ids": ("O", 1),
    "errors": ("S", 1),
    "status": ("u", 1),
    "subset": ("O", 1),
    "class_names": ("O", 1),
    "labels": ("i", None),
}
"""Kind of type (numpy's letter) and dimensions of each; labels have one or two."""


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash of every setting that changes a value: the extractor's provenance and how rows are stored."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """The shape of a descriptor file, fixed before its first row."""

    rows: int
    dim: int
    kept: int
    """Length of a row of kept scales; 0 where none are kept."""
    store: str
    """ "float32" or "float16"."""
    class_names: Sequence[str]
    labels: tuple[int, np.dtype[Any]] | None
    """(number of dimensions, type) of the labels: (1, int64) or (2, int8); None without labels."""

    def create(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        """Makes the data sets (`write_all` fills ids, subsets and labels) and the attributes."""
        # A killed process leaves a whole file, because later writes change data alone, never the file's structure:
        # everything has its place from the start. The space is sparse.
        _allocate(file, "descriptors", (self.rows, self.dim), np.dtype(self.store))
        if self.kept:
            _allocate(file, "scales", (self.rows, self.kept), np.dtype(self.store))
        _allocate(file, "errors", (self.rows,), np.dtype(f"S{MAX_REASON}"))
        _allocate(file, "status", (self.rows,), np.dtype(np.uint8))
        file.create_dataset("ids", (self.rows,), _TEXT)
        file.create_dataset("subset", (self.rows,), _TEXT)
        file.create_dataset("class_names", data=text_array(self.class_names), dtype=_TEXT)
        if self.labels is not None:
            dimensions, dtype = self.labels
            shape = (self.rows,) if dimensions == 1 else (self.rows, len(self.class_names))
            file.create_dataset("labels", shape, dtype)
        for name, value in attributes.items():
            file.attrs[name] = value
        layers = stored_layers(attributes)
        if len(layers) > 1:
            _name_layers(file, layers, (self.rows, self.dim), np.dtype(self.store))


def attributes_of(
    settings: Mapping[str, Any],
    dataset: str,
    layer_dims: Sequence[int],
    labelled: bool,
    versions: Mapping[str, str],
    naming: Naming,
    portion: Portion | None = None,
) -> dict[str, Any]:
    """A descriptor file's attributes; `portion` if it holds a part of its list."""
    nets = settings["nets"]
    copied = ("scales", "aggregate", "flip", "layer", "precision", "region", "exif")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(settings),
        "settings": json.dumps(settings, sort_keys=True),
        "dataset": dataset,
        "labelled": labelled,
        "net": "+".join(net["net"] for net in nets),
        "weights": "+".join(net["weights"] for net in nets),
        "weights_sha256": "+".join(net["weights_sha256"] for net in nets),
        "preprocessing": json.dumps([net["preprocessing"] for net in nets], sort_keys=True),
        "layer_dims": np.asarray(layer_dims),
        **{name: settings[name] for name in copied},
        **({} if settings["layer"] == POSTERIORS else {name: settings[name] for name in LATER if name in settings}),
        **dict(sorted(versions.items())),
        **naming.attributes(),
        **(portion.attributes() if portion is not None else {}),
    }


def versions_here() -> dict[str, str]:
    """The versions that a value may depend on, as attributes: vggfeat, Python, libraries."""
    # From package metadata: importing torch would cost readers three seconds.
    from importlib.metadata import version

    libraries = {f"{name}_version": version(name) for name in ("torch", "numpy", "pillow")}
    return {"vggfeat_version": __version__, **libraries, "python_version": platform.python_version()}


def write_all(data: h5py.Dataset, parts: Iterable[NDArray[Any]]) -> None:
    """Fills a data set with consecutive arrays."""
    start = 0
    for part in parts:
        data[start : start + len(part)] = part
        start += len(part)


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading and checked; HDF5's errors become StoreErrors."""
    file = opened(path, "r")
    try:
        check_format(path, file)
        yield file
    except DAMAGE as error:
        raise StoreError(f"{path}: damaged descriptor file ({damage(error)})") from error
    finally:
        file.close()


@contextmanager
def reading_rows(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading descriptors: their claimed sizes are checked, so a lack of memory is no damage."""
    with reading(path) as file:
        try:
            yield file
        except MemoryError as error:
            why = f" ({error})" if str(error) else ""
            raise StoreError(
                f"{path}: too large to read at once{why}: take fewer rows at a time, as Descriptors.blocks does"
            ) from error


def check_readable(path: str | Path) -> None:
    """Raises StoreError for a file that is missing or is not a descriptor file."""
    with reading(Path(path)):
        pass


class CutShortError(StoreError):
    """An HDF5 file ends before its content does."""


def opened(path: Path, mode: str) -> h5py.File:
    """h5py.File with one-sentence errors. Readers take no lock, so a file being written can be read."""
    try:
        return _file(path, mode)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise folder_error(StoreError, path, (".h5",), "descriptor files") from None
    except PermissionError:
        raise StoreError(f"{path}: permission denied") from None
    except OSError as error:
        if "unable to lock file" in str(error):
            raise StoreError(
                f"{path} is being written by another process: wait for it, or name another `output`"
            ) from None
        if is_open_here(error):
            raise StoreError(f"{path} is open in this program: close it first") from None
        if damage(error) == CUT_SHORT:
            raise CutShortError(f"{path}: damaged file ({CUT_SHORT})") from None
        if mode != "w" and path.is_file() and not is_hdf5(path):
            raise StoreError(f"{path} is not a descriptor file (not HDF5)") from None
        if not path.is_file():
            raise StoreError(f"{path}: not a regular file") from None
        raise StoreError(f"{path}: cannot open ({os_reason(error)})") from None


def _file(path: Path, mode: str) -> h5py.File:
    """The file, locked for writing where its file system has locks: HDF5 takes their absence for a writer."""
    if mode == "r":
        return open_to_read(path)
    try:
        return h5py.File(path, mode, locking=True)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return h5py.File(path, mode, locking=False)


def is_descriptor_file(path: Path) -> bool:
    """Whether `overwrite` may replace a file: one of ours, or an HDF5 file that is too damaged to tell."""
    if not is_hdf5(path):
        return False
    try:
        with open_to_read(path) as file:
            return bool(file.attrs.get("format") == FORMAT)
    except DAMAGE:
        return True


def check_format(path: Path, file: h5py.File) -> None:
    """Raises StoreError for other files, a newer format, and data sets stored outside of the file."""
    found = file.attrs.get("format")
    if found != FORMAT:
        other = f"{path} is a {found.removeprefix(OWN)}, not a descriptor file" if str(found).startswith(OWN) else ""
        raise StoreError(other or f"{path} is not a descriptor file of vggfeat's")
    version = int(file.attrs.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise StoreError(f"{path} has format version {version}, this vggfeat reads up to {FORMAT_VERSION}: update it")
    for name, (kind, dimensions) in _DATASETS.items():
        if file.get(name, getlink=True) is None:
            if name in ("scales", "labels"):
                continue
            raise StoreError(f"{path}: damaged descriptor file (no {name!r})")
        data = own_dataset(file, name)
        if data is None:
            raise StoreError(f"{path}: {name!r} points outside of the file, refused")
        if data.dtype.kind != kind or data.ndim not in ((1, 2) if dimensions is None else (dimensions,)):
            raise StoreError(f"{path}: damaged descriptor file ({name!r} holds {data.dtype} of shape {data.shape})")
        if name != "class_names" and data.shape[:1] != file["ids"].shape:
            raise StoreError(f"{path}: damaged descriptor file ({name!r} has {data.shape} for {file['ids'].shape} ids)")


def first_difference(made: Any, asked: Any, name: str = "") -> str:
    """The first difference between two settings in words, or ""."""
    if isinstance(made, dict) and isinstance(asked, dict):
        # The nets last, and their ranges in 8 bits last of all: these differ because the precision or the weights do.
        for key in sorted({*made, *asked}, key=lambda key: (key in ("nets", "input_maxima"), str(key))):
            difference = first_difference(made.get(key), asked.get(key), f"{name}.{key}" if name else str(key))
            if difference:
                return difference
        return ""
    if isinstance(made, list) and isinstance(asked, list) and len(made) == len(asked) and name == "nets":
        return next((d for a, b in zip(made, asked, strict=True) if (d := first_difference(a, b, "net"))), "")
    if made == asked:
        return ""
    return f"{name} {_short(made)} there, {_short(asked)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A data set whose space is allocated but not written (zeros)."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # no clock times: equal runs make equal files
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, properties)


def _name_layers(file: h5py.File, layers: Sequence[StoredLayer], shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Each of several layers as `layers/<name>`: a virtual data set, which takes no space, over its columns."""
    group = file.create_group("layers")
    for layer in layers:
        columns = h5py.h5s.create_simple(shape)
        here = h5py.h5s.create_simple((shape[0], layer.length))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_obj_track_times(False)
        if shape[0]:
            columns.select_hyperslab((0, layer.columns.start), (shape[0], layer.length))
            properties.set_virtual(here, b".", b"descriptors", columns)
        h5py.h5d.create(group.id, layer.name.encode(), h5py.h5t.py_create(dtype, logical=True), here, properties)


def text_bytes(values: Iterable[str]) -> list[bytes]:
    """Names as bytes; those outside UTF-8 in file names are kept unchanged."""
    return [name_bytes(value) for value in values]


def text_array(values: Iterable[str]) -> NDArray[np.object_]:
    """Names as an array that h5py writes."""
    return np.array(text_bytes(values), dtype=object)


def read_text(data: h5py.Dataset) -> list[str]:
    """A data set of names as strings."""
    return [name_of(value) for value in texts(data)]


def plain(value: Any) -> Any:
    """An attribute's value as plain Python data."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def plain_attributes(file: h5py.File) -> dict[str, Any]:
    """All attributes as plain data, with JSON decoded. Raises ValueError for wrong types."""
    attributes = {name: plain(value) for name, value in file.attrs.items()}
    for name in ("settings", "preprocessing"):
        attributes[name] = json.loads(attributes[name])
    check_provenance(attributes["settings"])
    for name in (
        "dataset",
        "fingerprint",
        "net",
        "weights",
        "weights_sha256",
        "aggregate",
        "layer",
        "region",
        "precision",
    ):
        if not isinstance(attributes[name], str):
            raise ValueError(f"{name} is {attributes[name]!r}")
    if not isinstance(attributes["flip"], bool):
        raise ValueError(f"flip is {attributes['flip']!r}")
    dims, scales = attributes["layer_dims"], attributes["scales"]
    if not all(isinstance(one, int) for one in (*dims, *scales)):
        raise ValueError(f"layer_dims are {dims!r}, scales {scales!r}")
    if "scales" in file and file["scales"].shape[1] != sum(dims) * len(scales):
        kept = number_of(file["scales"].shape[1], "kept value")
        raise ValueError(f"{kept} for {number_of(len(scales), 'scale')} of {dims}")
    layers, length = stored_layers(attributes), file["descriptors"].shape[1]
    if len(layers) > 1 and layers[-1].columns.stop != length:
        raise ValueError(f"{number_of(length, 'value')} for the layers {attributes['layer']}")
    return attributes


def os_reason(error: OSError) -> str:
    """An OSError in the system's words."""
    return os.strerror(error.errno) if error.errno else str(error).partition(",")[0]
