"""Which images train, choose C and test: seeded splits that depend only on ids, and their file.

Within a class, images are taken in the order of a hash of the seed and their id. So a split does not depend on the
order of a file's rows, on other classes or on a library's random numbers, and a missing image moves only those after
it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.classifiers.targets import rarest_class
from vggfeat.errors import DatasetError
from vggfeat.system.files import replacing
from vggfeat.system.numbers import number_of
from vggfeat.system.text import name_bytes

FORMAT = "vggfeat-splits"
FORMAT_VERSION = 1

PARTS = ("train", "val", "test")

VALIDATION = 0.2
"""Share of a class's training images that choose C (Appendix B)."""


@dataclass(frozen=True)
class Split:
    """Ids of one round: fit on `train` to choose C on `val`, then fit on both and score on `test`."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    seed: int | None = None
    fold: int | None = None
    """Which of k folds is the test part, from 0."""


@dataclass(frozen=True)
class Stratum:
    """Images to spread evenly over the parts of a split."""

    ids: Sequence[str]
    name: str | None = None
    """Their class; None for a stratum of a multi-label set."""


SMALL = 5
"""Strata of a multi-label set with fewer images are merged, because 20% of them rounds to 0."""


def strata(ids: Sequence[str], labels: NDArray[Any], class_names: Sequence[str]) -> list[Stratum]:
    """Each id in one stratum.

    Args:
        ids: N ids.
        labels: (N,) class indices: the strata are the classes. Or (N, K) of 1, 0, -1: an image is in the stratum of
            its rarest class, so that every part has rare classes; images without a class and of small strata share one.
        class_names: K names.
    """
    if labels.ndim == 1:
        groups: list[list[str]] = [[] for _ in class_names]
        for id, label in zip(ids, labels, strict=True):
            groups[label].append(id)
        return [Stratum(group, name) for group, name in zip(groups, class_names, strict=True)]
    own = rarest_class(labels == 1)
    sizes = np.bincount(own, minlength=len(class_names) + 1)
    own = np.where(sizes[own] < SMALL, len(class_names), own)
    groups = [[] for _ in sizes]
    for id, index in zip(ids, own, strict=True):
        groups[index].append(id)
    return [Stratum(group) for group in groups if group]


def per_class_splits(groups: Sequence[Stratum], train: int, test: int | None, seeds: Sequence[int]) -> list[Split]:
    """`train` images a class to train on, up to `test` of the rest (all of it if None) to test on (Appendix B).

    Raises DatasetError for a class without at least one image to test on.
    """
    _need(groups, train + 1, f"{train} to train on and at least one to test on")
    splits = []
    for seed in seeds:
        parts: dict[str, list[str]] = {part: [] for part in PARTS}
        for stratum in groups:
            order = shuffled(stratum.ids, seed)
            _share(parts, order[:train])
            parts["test"] += order[train : None if test is None else train + test]
        splits.append(_split(parts, seed=seed))
    return splits


def stratified_splits(groups: Sequence[Stratum], test_fraction: float, seeds: Sequence[int]) -> list[Split]:
    """A share of each class's images, at least one, to test on, the rest to train on.

    Raises DatasetError for a class with fewer than 3 images: one each to train, to choose C and to test on.
    """
    _need(groups, 3, "one each to train on, to choose C and to test on")
    splits = []
    for seed in seeds:
        parts: dict[str, list[str]] = {part: [] for part in PARTS}
        for stratum in groups:
            order = shuffled(stratum.ids, seed)
            count = min(max(1, round(test_fraction * len(order))), max(len(order) - 2, 0))
            parts["test"] += order[:count]
            _share(parts, order[count:])
        splits.append(_split(parts, seed=seed))
    return splits


def k_folds(groups: Sequence[Stratum], k: int, seed: int) -> list[Split]:
    """k rounds; each image is tested once, each class spread evenly over the folds.

    Raises DatasetError for a class with fewer than k images (or 3, where k is 2).
    """
    _need(groups, max(k, 3), f"one in each of {k} folds" if k >= 3 else "one each to train on, choose C and test on")
    parts: list[dict[str, list[str]]] = [{part: [] for part in PARTS} for _ in range(k)]
    for stratum in groups:
        order = shuffled(stratum.ids, seed)
        for fold in range(k):
            parts[fold]["test"] += order[fold::k]
            _share(parts[fold], [id for at, id in enumerate(order) if at % k != fold])
    return [_split(one, seed=seed, fold=fold) for fold, one in enumerate(parts)]


def with_validation(groups: Sequence[Stratum], test: Sequence[str], seed: int) -> Split:
    """A split with the data set's own test part; 20% of the training images, in strata, choose C."""
    _need(groups, 2, "one each to train on and to choose C")
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for stratum in groups:
        _share(parts, shuffled(stratum.ids, seed))
    parts["test"] = list(test)
    return _split(parts, seed=seed)


def shuffled(ids: Sequence[str], seed: int) -> list[str]:
    """The ids in the order of the SHA-256 of `<seed>/<id>`."""
    return sorted(ids, key=lambda id: hashlib.sha256(f"{seed}/".encode() + name_bytes(id)).digest())


def _share(parts: dict[str, list[str]], training: Sequence[str]) -> None:
    """Adds one class's training images: the first 20%, at least one where there are two, choose C."""
    count = max(round(VALIDATION * len(training)), 1) if len(training) > 1 else 0
    parts["val"] += training[:count]
    parts["train"] += training[count:]


def _split(parts: Mapping[str, Sequence[str]], seed: int | None = None, fold: int | None = None) -> Split:
    """The parts, sorted, so that ties in a ranking do not depend on the file's order."""
    train, val, test = (tuple(sorted(parts[part], key=name_bytes)) for part in PARTS)
    return Split(train, val, test, seed, fold)


def _need(groups: Sequence[Stratum], least: int, why: str) -> None:
    """Raises DatasetError for a class with too few images; multi-label classes are checked when fitted."""
    for stratum in groups:
        if stratum.name is not None and len(stratum.ids) < least:
            images = number_of(len(stratum.ids), "image")
            raise DatasetError(f"class {stratum.name!r} has {images}, this protocol needs {least} ({why})")


def write_splits(path: str | Path, dataset: str, splits: Sequence[Split]) -> Path:
    """Writes splits as JSON, by id, for others to repeat; returns the path."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dataset": dataset,
        "splits": [{"seed": s.seed, "fold": s.fold, "train": s.train, "val": s.val, "test": s.test} for s in splits],
    }
    with replacing(path) as temporary:
        # ASCII with escapes: bytes of ids that are not UTF-8 are lone surrogates, which only escapes preserve.
        temporary.write_text(json.dumps(content, indent=1), encoding="ascii", newline="\n")
    return Path(path)


def is_splits(path: Path) -> bool:
    """Whether a file has splits of any version."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_splits(path: str | Path, dataset: str, ids: Sequence[str]) -> list[Split]:
    """Reads a splits file for descriptors of these ids.

    Raises DatasetError for a file of another format or data set, an id that is unknown or given twice, or an empty
    part (`val` may be empty, for a single value of C).
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: these splits cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not a splits file: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DatasetError(f"{path} is not a splits file of vggfeat's (no format {FORMAT!r}); `write_splits` makes one")
    if content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version")
        raise DatasetError(f"{path} has format version {version}, this vggfeat reads {FORMAT_VERSION}: update it")
    if content.get("dataset") != dataset:
        raise DatasetError(f"{path} has splits of {content.get('dataset')!r}, the descriptors are of {dataset!r}")
    rounds = content.get("splits")
    if not isinstance(rounds, list) or not rounds:
        raise DatasetError(f"{path}: no list of splits")
    known = set(ids)
    return [_read_split(f"{path}, split {number}", one, known) for number, one in enumerate(rounds, start=1)]


def _read_split(where: str, content: Any, known: set[str]) -> Split:
    seen: dict[str, str] = {}
    for part in PARTS:
        ids = content.get(part) if isinstance(content, dict) else None
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise DatasetError(f"{where}: {part!r} is not a list of ids")
        if not ids and part != "val":
            raise DatasetError(f"{where}: {part!r} is empty")
        for id in ids:
            if id in seen:
                raise DatasetError(f"{where}: {id!r} is in {seen[id]!r} and again in {part!r}")
            if id not in known:
                raise DatasetError(f"{where}: {part!r} names {id!r}, which the descriptors do not have")
            seen[id] = part
    seed, fold = content.get("seed"), content.get("fold")
    for name, value in (("seed", seed), ("fold", fold)):
        if value is not None and not isinstance(value, int):
            raise DatasetError(f"{where}: {name!r} is not a whole number")
    return Split(tuple(content["train"]), tuple(content["val"]), tuple(content["test"]), seed, fold)
