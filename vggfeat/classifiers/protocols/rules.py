"""How each data set is split and scored (Appendix B), as data, and the splits made by these rules."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vggfeat.classifiers.protocols.fusion import Features
from vggfeat.classifiers.protocols.splits import (
    Split,
    k_folds,
    per_class_splits,
    strata,
    stratified_splits,
    with_validation,
)
from vggfeat.errors import DatasetError, UsageError
from vggfeat.metrics import Definition
from vggfeat.system.numbers import number_of
from vggfeat.system.values import whole

log = logging.getLogger(__name__)

Measure = Literal["mean_class_recall", "mAP"]

ROUNDS = 3
"""Seeded splits (Appendix B: 3 random splits)."""

TEST_FRACTION = 0.25
"""Default share of a user's own images to test on."""


@dataclass(frozen=True)
class Protocol:
    """What a data set prescribes; the defaults are for users' own images."""

    fixed: bool = False
    """Whether the benchmark prescribes its splits, which excludes folds and fractions."""
    train_per_class: int | None = None
    test_per_class: int | None = None
    """None: all others."""
    given: tuple[str, str] | None = None
    """The subset to choose C on and the one to report. The first may be "": then 20% of "train" choose C."""
    definition: Definition = "voc2010"
    """Of the average precision, for multi-label sets."""
    archive: Literal["Main", "Action"] | None = None
    """The evaluation server's folder, if only the server knows the test labels."""


PROTOCOLS = {
    "caltech101": Protocol(fixed=True, train_per_class=30, test_per_class=50),
    "caltech256": Protocol(fixed=True, train_per_class=60),
    "voc2007": Protocol(fixed=True, given=("val", "test"), definition="voc2007"),
    "voc2012": Protocol(fixed=True, given=("", "val"), archive="Main"),
    "voc2012-action": Protocol(fixed=True, given=("", "val"), archive="Action"),
}


def protocol_of(dataset: str) -> Protocol:
    """The benchmark's protocol, or the one for users' own images and ILSVRC-style sets."""
    return PROTOCOLS.get(dataset, Protocol())


@dataclass(frozen=True)
class Rounds:
    """How to split the images where the protocol leaves it open, for `svm`: `rounds=vggfeat.Rounds(folds=3)`.

    Args:
        number: random splits; by default 3, where splits are random at all.
        seed: of the first split; the next ones count up.
        folds: k-fold cross-validation in place of random splits, for your own images.
        train_per_class: training images of each class; the rest are to test on.
        test_per_class: at most this many test images of each class; goes with `train_per_class`.
        test_fraction: share of your own images to test on; by default 0.25.

    Choose one of `folds`, `train_per_class` and `test_fraction`.
    """

    number: int | None = None
    seed: int = 0
    folds: int | None = None
    train_per_class: int | None = None
    test_per_class: int | None = None
    test_fraction: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("number", 1), ("seed", 0), ("folds", 2), ("train_per_class", 2), ("test_per_class", 1)):
            value = getattr(self, name)
            if value is None and name != "seed":
                continue
            object.__setattr__(self, name, whole(name, value, least))
        share = self.test_fraction
        if share is not None and not (isinstance(share, numbers.Real) and 0 < share < 1):
            raise UsageError(f"`test_fraction` {share!r} is not between 0 and 1")
        object.__setattr__(self, "test_fraction", None if share is None else float(share))

    @property
    def asks(self) -> bool:
        """Whether more than seeds is given."""
        return (self.folds, self.train_per_class, self.test_per_class, self.test_fraction) != (None,) * 4


def make_splits(features: Features, protocol: Protocol, rounds: Rounds) -> list[Split]:
    """The splits of a data set.

    Benchmarks prescribe them. Users' sets: k folds, a number of images per class, or a share, as asked; else the
    subsets that the data set names; else a stratified share with several seeds.

    Raises DatasetError for a class or subset with too few images, UsageError for rounds that contradict the protocol.
    """
    _check_rounds(protocol, rounds, features.dataset)
    if protocol.given is not None:
        return [given_split(features, *protocol.given, seed=rounds.seed)]
    seeds = range(rounds.seed, rounds.seed + (ROUNDS if rounds.number is None else rounds.number))
    train = protocol.train_per_class if rounds.train_per_class is None else rounds.train_per_class
    if not rounds.asks and not protocol.fixed:
        own = _own_subsets(features)
        if own is not None:
            if rounds.number is not None:
                raise UsageError(
                    f"the images of {features.files[0].path} name their subsets: "
                    "`number` goes with `test_fraction` or `train_per_class`"
                )
            if own[0] and rounds.seed:
                path = features.files[0].path
                raise UsageError(f"the images of {path} name their validation part too: `seed` would change nothing")
            return [given_split(features, *own, seed=rounds.seed)]
    rows = np.flatnonzero(features.described)
    groups = strata([features.ids[row] for row in rows], features.labels[rows], features.class_names)
    if rounds.folds is not None:
        return k_folds(groups, rounds.folds, rounds.seed)
    if train is not None:
        if features.multi_label:
            raise UsageError(
                f"{features.files[0].path} has several labels an image, so `train_per_class` cannot be kept: take "
                "`test_fraction` or `folds`"
            )
        test = protocol.test_per_class if rounds.test_per_class is None else rounds.test_per_class
        return per_class_splits(groups, train, test, seeds)
    return stratified_splits(groups, TEST_FRACTION if rounds.test_fraction is None else rounds.test_fraction, seeds)


def _check_rounds(protocol: Protocol, rounds: Rounds, dataset: str) -> None:
    if protocol.fixed and (rounds.folds is not None or rounds.test_fraction is not None):
        raise UsageError(f"{dataset} prescribes its splits: `folds` and `test_fraction` are for your own images")
    if protocol.given is not None and (rounds.asks or rounds.number is not None):
        raise UsageError(
            f"{dataset} prescribes one split: `number`, `train_per_class` and `test_per_class` do not fit it"
        )
    if protocol.given is not None and protocol.given[0] and rounds.seed:
        raise UsageError(f"{dataset} prescribes its validation images too: `seed` would change nothing")
    if rounds.folds is not None and rounds.number is not None:
        raise UsageError("`number` goes with random splits, not with `folds`")
    per_class = rounds.train_per_class is not None
    if sum((rounds.folds is not None, per_class, rounds.test_fraction is not None)) > 1:
        raise UsageError("`folds`, `train_per_class` and `test_fraction`: choose one")
    if rounds.test_per_class is not None and not (per_class or protocol.train_per_class):
        raise UsageError("`test_per_class` needs `train_per_class`")


def _own_subsets(features: Features) -> tuple[str, str] | None:
    """The subsets to choose C on and to report; None unless the data set names "train" and another subset.

    Raises DatasetError for images to test on beside others that no subset says to train on: random splits would train
    on the test images.
    """
    names = set(features.subset)
    if "train" not in names and len(names) > 1:
        raise DatasetError(
            f"the images of {features.files[0].path} name the subsets {_listed(names)}, and none is 'train': name the "
            "training images, or take `test_fraction` or `folds` to ignore the subsets"
        )
    if not names & {"val", "test"} or len(names) == 1:
        return None
    if "" in names:
        log.warning(
            "%s: %s no subset and take no part",
            features.files[0].path,
            number_of(features.subset.count(""), "image names", "images name"),
        )
    if "test" not in names:
        return "", "val"
    return ("val" if "val" in names else ""), "test"


def _listed(names: set[str]) -> str:
    return " and ".join(repr(name) if name else "none" for name in sorted(names, reverse=True))


def given_split(features: Features, val: str, test: str, seed: int = 0) -> Split:
    """Train on "train", choose C on the subset `val` (or on 20% of "train"), report on the subset `test`.

    Test images without a descriptor stay in: a missing one counts against the result.
    """
    train_ids = _ids(features, "train", described=True)
    test_ids = _ids(features, test, described=not features.multi_label)
    if val:
        return Split(tuple(train_ids), tuple(_ids(features, val, described=True)), tuple(test_ids))
    index = {id: row for row, id in enumerate(features.ids)}
    groups = strata(train_ids, features.labels[[index[id] for id in train_ids]], features.class_names)
    return with_validation(groups, test_ids, seed)


def server_split(features: Features) -> Split:
    """VOC-2012's split for its server: choose C on val, fit on train and val, score the test images, if any."""
    train, val = (tuple(_ids(features, subset, described=True)) for subset in ("train", "val"))
    test = tuple(id for id, subset in zip(features.ids, features.subset, strict=True) if subset == "test")
    return Split(train, val, test)


def _ids(features: Features, subset: str, described: bool) -> list[str]:
    wanted = zip(features.ids, features.subset, features.described, strict=True)
    ids = [id for id, name, done in wanted if name == subset and (done or not described)]
    if not ids:
        raise DatasetError(
            f"{features.files[0].path} has no {subset!r} images; extract the whole data set {features.dataset!r}"
        )
    return ids


def rows_of(features: Features, ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Rows of these ids, in file order: for VOC that of the image set, which decides between tied scores."""
    wanted = set(ids)
    return np.array([row for row, id in enumerate(features.ids) if id in wanted], dtype=np.intp)
