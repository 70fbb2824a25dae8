"""The file of a fitted model (HDF5): linear classifiers, and how to describe new images for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vggfeat._version import __version__
from vggfeat.classifiers.sigmoids import probabilities
from vggfeat.errors import ModelError
from vggfeat.store.locking import OutputLock
from vggfeat.store.naming import Naming
from vggfeat.store.provenance import check_provenance
from vggfeat.system.files import exists, is_file, replacing
from vggfeat.system.hdf5 import DAMAGE, damage, is_hdf5, is_open_here, open_to_read, own_dataset, texts, written
from vggfeat.system.numbers import number_of
from vggfeat.system.text import name_bytes, name_of

MODEL_FORMAT = "vggfeat-model"
FORMAT_VERSION = 1

_TEXT = h5py.string_dtype()


_IN_COMMANDS = ("naming", "made_by")
"""Entries of a record that the commands show better."""


@dataclass(frozen=True, eq=False)
class Model:
    """One-vs-rest linear classifiers on descriptors."""

    coef: NDArray[np.float32]
    """(K, D)."""
    intercept: NDArray[np.float32]
    """(K,)."""
    C: NDArray[np.float64]
    """(K,) the C of each class."""
    class_names: tuple[str, ...]
    multi_label: bool
    inputs: tuple[dict[str, Any], ...]
    """For each descriptor file how its images were described (`Extractor.provenance()`); descriptors are stacked."""
    record: dict[str, Any]
    """What the model was fitted on, and its score, as plain data."""
    sigmoids: NDArray[np.float64] | None = None
    """(K, 2) slope and offset of each class's sigmoid (see `calibration`); None: the model gives no probabilities."""

    def __repr__(self) -> str:
        return f"<Model: {number_of(len(self.class_names), 'class')}, {number_of(self.coef.shape[1], 'feature')}>"

    def scores(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, D) descriptors -> (n, K) scores w x + b: 0 on the class's hyperplane, 1 and -1 on its margins.

        Raises ModelError for descriptors of another length.
        """
        if descriptors.shape[1] != self.coef.shape[1]:
            raise ModelError(
                f"descriptors have {number_of(descriptors.shape[1], 'value')}, the model takes {self.coef.shape[1]}"
            )
        scores: NDArray[np.float32] = descriptors @ self.coef.T + self.intercept
        return scores

    def probabilities(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, D) descriptors -> (n, K) class probabilities; their sum is 1 unless an image may be of several classes.

        Raises ModelError for a model without probabilities, or descriptors of another length.
        """
        if self.sigmoids is None:
            raise ModelError("the model was fitted without `probabilities`")
        scores = self.scores(descriptors)
        return probabilities(scores, self.sigmoids, normalise=not self.multi_label)

    @property
    def namings(self) -> list[Naming]:
        """How the images and weights of each input were named; nothing in older models."""
        kept = self.record.get("naming")
        return [Naming.of(one) for one in kept] if isinstance(kept, list) else []

    def describe(self) -> dict[str, Any]:
        """Classes, size, C (one, or one a class), inputs and record as plain data, to be shown."""
        return {
            "classes": len(self.class_names),
            "dim": self.coef.shape[1],
            "multi_label": self.multi_label,
            "probabilities": self.sigmoids is not None,
            "C": float(self.C[0]) if len(set(self.C.tolist())) == 1 else self.C.tolist(),
            "class_names": list(self.class_names),
            "inputs": [dict(one) for one in self.inputs],
            **{name: value for name, value in self.record.items() if name not in _IN_COMMANDS},
        }


def write_model(path: str | Path, model: Model) -> Path:
    """Writes a model, whole or not at all, and returns its path. Removes what a killed process left there."""
    with OutputLock(Path(path)), replacing(path) as temporary, written(temporary) as file:
        file.attrs["format"] = MODEL_FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["vggfeat_version"] = __version__
        file.attrs["multi_label"] = model.multi_label
        file.attrs["inputs"] = json.dumps(model.inputs)
        file.attrs["record"] = json.dumps(model.record)
        for name in ("coef", "intercept", "C"):
            file[name] = getattr(model, name)
        if model.sigmoids is not None:
            file["sigmoids"] = model.sigmoids
        names = [name_bytes(name) for name in model.class_names]
        file.create_dataset("class_names", data=np.array(names, dtype=object), dtype=_TEXT)
    return Path(path)


def is_model(path: Path) -> bool:
    """Whether a file is a model of any version."""
    try:
        with open_to_read(path) as file:
            return bool(file.attrs.get("format") == MODEL_FORMAT)
    except DAMAGE:
        return False


def read_model(path: str | Path) -> Model:
    """Reads a model. Raises ModelError for another kind of file, a newer format, or damage."""
    path = Path(path)
    if exists(path) and not is_file(path) and not path.is_dir():
        raise ModelError(f"{path}: not a regular file")
    if not path.is_file():
        raise ModelError(f"{path}: no such file", advice="model", path=path)
    if not is_hdf5(path):
        raise ModelError(f"{path} is not a model of vggfeat's (not HDF5)")
    try:
        with open_to_read(path) as file:
            return _read(path, file)
    except DAMAGE as error:
        if is_open_here(error):
            raise ModelError(f"{path} is open in this program: close it first") from None
        raise ModelError(f"{path}: damaged model file ({damage(error)})") from error


def _read(path: Path, file: h5py.File) -> Model:
    if file.attrs.get("format") != MODEL_FORMAT:
        raise ModelError(f"{path} is not a model of vggfeat's", advice="model", path="FILE")
    version = int(file.attrs.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise ModelError(f"{path} has format version {version}, this vggfeat reads up to {FORMAT_VERSION}: update it")
    for name in ("coef", "intercept", "C", "class_names"):
        if own_dataset(file, name) is None:
            raise ModelError(f"{path}: damaged model file (no {name!r})")
    model = Model(
        coef=file["coef"][:].astype(np.float32, copy=False),
        intercept=file["intercept"][:].astype(np.float32, copy=False),
        C=file["C"][:].astype(np.float64, copy=False),
        class_names=tuple(map(name_of, texts(file["class_names"]))),
        multi_label=bool(file.attrs["multi_label"]),
        inputs=tuple(json.loads(file.attrs["inputs"])),
        record=json.loads(file.attrs["record"]),
        sigmoids=_sigmoids(path, file),
    )
    k = len(model.class_names)
    if model.coef.ndim != 2 or {len(model.coef), len(model.intercept), len(model.C)} != {k}:
        raise ModelError(f"{path}: damaged model file ({number_of(k, 'class')}, coefficients {model.coef.shape})")
    if not (np.isfinite(model.coef).all() and np.isfinite(model.intercept).all()):
        raise ModelError(f"{path}: damaged model file (coefficients that are NaN or infinite)")
    for one in model.inputs:
        check_provenance(one)
    if not isinstance(model.record, dict):
        raise ValueError("its record is not a table")
    return model


def _sigmoids(path: Path, file: h5py.File) -> NDArray[np.float64] | None:
    """The sigmoids of a model, which those fitted without probabilities, and older ones, lack."""
    if "sigmoids" not in file:
        return None
    stored = own_dataset(file, "sigmoids")
    found = None if stored is None else stored[:].astype(np.float64, copy=False)
    if found is None or found.shape != (len(file["class_names"]), 2) or not np.isfinite(found).all():
        raise ModelError(f"{path}: damaged model file (sigmoids)")
    return found
