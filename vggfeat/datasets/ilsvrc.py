"""ILSVRC-2012: folders of classes, or tar files read where they lie; its flat validation part by the devkit's mapping.

Image-net.org gives the images to holders of an account, so they are read from disk only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vggfeat.datasets.bbox import read_boxes
from vggfeat.datasets.listing import is_image
from vggfeat.datasets.sample import Dataset, Sample
from vggfeat.datasets.tars import members
from vggfeat.errors import DatasetError
from vggfeat.nets.catalog import NUM_CLASSES
from vggfeat.system.numbers import number_of

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val")

META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT_FOLDERS = ("ILSVRC2012_devkit_t12", "devkit")
"""Folders below `ilsvrc2012/` that may hold the two files, directly or in `data/`; so may `ilsvrc2012/` and `val/`."""

_FLAT = ""
"""The class of an image outside of any class folder."""


def load_ilsvrc2012(data_root: str | Path, parts: tuple[Part, ...] = PARTS, *, boxes: bool = False) -> Dataset:
    """ILSVRC-2012 in `<data_root>/ilsvrc2012/{train,val,test}`: samples with that subset, classes by wnid.

    Each part is `<wnid>/*.JPEG`, or tar files in its folder: one a class (`<wnid>.tar`), shards whose members are
    `<wnid>/*.JPEG`, or ILSVRC's own tar of tars; none is unpacked. A validation part without class folders is ILSVRC's
    own: its labels come from the devkit's ground truth, whose class numbers only the devkit's meta.mat explains. The
    test part has no labels; it is listed alone, in the order of its names, with the devkit's classes if there are any.

    Args:
        data_root: the folder that holds `ilsvrc2012/`.
        parts: which parts to list; a missing part is an error.
        boxes: read the bounding boxes too (`bbox/train/<wnid>/*.xml`, `bbox/val/*.xml`), a file an image.

    Raises DatasetError, naming what is missing.
    """
    root = Path(data_root, "ilsvrc2012")
    missing = [part for part in parts if not (root / part).is_dir()]
    if missing:
        raise _missing(root, missing, replaceable=not boxes and "test" not in parts)
    if "test" in parts:
        return _test_part(root)
    found = {part: list(_images(root / part)) for part in parts}
    for part, images in found.items():
        if not images:
            raise DatasetError(f"{root / part} holds no images: neither <wnid>/*.JPEG nor tar files of them")
    if "train" in found and any(wnid == _FLAT for wnid, *_ in found["train"]):
        stray = next(name for wnid, name, *_ in found["train"] if wnid == _FLAT)
        raise DatasetError(
            f"{root / 'train'}: {stray} lies outside of any class's folder or tar file, so it has no label"
        )
    if "val" in found and any(wnid == _FLAT for wnid, *_ in found["val"]):
        found["val"] = _flat_labels(root, found["val"])
    class_names = tuple(sorted({wnid for wnid, *_ in found["train" if "train" in found else "val"]}))
    index = {wnid: label for label, wnid in enumerate(class_names)}
    strange = next((wnid for images in found.values() for wnid, *_ in images if wnid not in index), None)
    if strange is not None:
        raise DatasetError(
            f"{root / 'val'}: class {strange} is not among the {number_of(len(class_names), 'class')} of train"
        )
    samples = tuple(
        Sample(f"{part}/{wnid}/{name}", path, index[wnid], subset=part, span=span)
        for part, images in found.items()
        for wnid, name, path, span in images
    )
    if boxes:
        samples = _with_boxes(root / "bbox", samples, class_names)
    return Dataset("ilsvrc2012", samples, class_names)


def _missing(root: Path, parts: list[Part], *, replaceable: bool) -> DatasetError:
    """The error for missing parts; `replaceable`: the user's own pictures, which have no boxes, would serve too."""
    names = " and ".join(f"{part}/" for part in parts)
    other = "name another data root with `data=DIR`"
    own = "or take pictures of your own with `dataset=folder` and `data=DIR`"
    return DatasetError(
        f"no ilsvrc2012 at {root} ({names} missing): put its images there as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG "
        f"(image-net.org gives them to holders of an account), {f'{other}, {own}' if replaceable else f'or {other}'}"
    )


def _test_part(root: Path) -> Dataset:
    images = sorted(_images(root / "test"), key=lambda image: image[1])
    if not images:
        raise DatasetError(f"{root / 'test'} holds no images: neither *.JPEG nor tar files of them")
    samples = tuple(Sample(f"test/{name}", path, subset="test", span=span) for _, name, path, span in images)
    meta = _devkit_file(root, META)
    wnids = {} if meta is None else _wnids(meta)
    return Dataset("ilsvrc2012", samples, tuple(sorted(wnid for id, wnid in wnids.items() if id <= NUM_CLASSES)))


def ilsvrc_numbers(data_root: str | Path) -> dict[str, int]:
    """ILSVRC2012_ID by wnid: the class numbers of submissions, which are not the order of the wnids.

    Raises DatasetError where the devkit's meta.mat, their only source, is not below `<data_root>/ilsvrc2012`.
    """
    root = Path(data_root, "ilsvrc2012")
    meta = _devkit_file(root, META)
    if meta is None:
        raise DatasetError(
            f"a submission needs {META} of ILSVRC's devkit, for its class numbers are not the order of the wnids: "
            f"put the devkit at {root / DEVKIT_FOLDERS[0]}"
        )
    return {wnid: id for id, wnid in _wnids(meta).items()}


def _devkit_file(root: Path, name: str) -> Path | None:
    """The path of a devkit file, or None."""
    folders = [root / folder / data for folder in DEVKIT_FOLDERS for data in ("data", ".")]
    return next((folder / name for folder in [*folders, root, root / "val"] if (folder / name).is_file()), None)


def _with_boxes(root: Path, samples: tuple[Sample, ...], class_names: tuple[str, ...]) -> tuple[Sample, ...]:
    """The samples with their boxes, which ILSVRC gives for a part of its training images and all others."""
    parts = tuple(dict.fromkeys(sample.subset for sample in samples))
    missing = next((root / part for part in parts if not (root / part).is_dir()), None)
    if missing is not None:
        raise DatasetError(
            f"{missing} is missing: unpack ILSVRC's bounding boxes (ILSVRC2012_bbox_{missing.name}*) so that "
            f"{root}/train/<wnid>/*.xml and {root}/val/*.xml are there"
        )
    located = []
    for sample in samples:
        wnid, stem = class_names[sample.labels], Path(sample.id).stem  # type: ignore[index]  # single-label
        folder = f"{root}/train/{wnid}" if sample.subset == "train" else f"{root}/{sample.subset}"
        located.append(replace(sample, boxes=read_boxes(f"{folder}/{stem}.xml", wnid)))
    return tuple(located)


Image = tuple[str, str, str, tuple[int, int] | None]
"""Class (or _FLAT), file name, file to open, (offset, length) in it."""


def _images(part: Path) -> Iterator[Image]:
    """The images of a part, ordered by class and file name; those of a tar file in its order."""
    for entry in _entries(part):
        if entry.is_dir():
            files = (file for file in _entries(entry) if is_image(file.name) and not file.is_dir())
            yield from ((entry.name, file.name, file.path, None) for file in files)
        elif entry.name.endswith(".tar"):
            yield from _members(entry.path)
        elif entry.name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
            raise DatasetError(f"{entry.path}: compressed, so its images cannot be read in any order; uncompress it")
        elif is_image(entry.name):
            yield (_FLAT, entry.name, entry.path, None)


def _entries(folder: str | Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"{os.fspath(folder)}: this folder cannot be read: {error.strerror}") from error


def _members(path: str) -> Iterator[Image]:
    """The images of a tar file; their class is the name of their folder, or else of the tar file.

    Raises DatasetError for a damaged one: its class would silently be smaller.
    """
    for member in members(path):
        if member.error:
            raise DatasetError(f"{path}: not a readable tar file: {member.error}")
        folder, _, name = member.name.rpartition("/")
        wnid = Path(folder or path).name.removesuffix(".tar")
        if is_image(name):
            yield (wnid if _is_wnid(wnid) else _FLAT, name, path, member.span)


def _is_wnid(name: str) -> bool:
    """Whether a name is a WordNet id, such as n01440764."""
    return name[:1] == "n" and name[1:].isdecimal()


def _flat_labels(root: Path, images: list[Image]) -> list[Image]:
    """ILSVRC's own validation part: line i of the ground truth is the ILSVRC2012_ID of the i-th image."""
    paths = {name: _devkit_file(root, name) for name in (META, GROUND_TRUTH)}
    for name, path in paths.items():
        if path is None:
            raise DatasetError(
                f"{root / 'val'} has no class folders, and {name} of ILSVRC's devkit is missing: its class numbers are "
                f"not the order of the wnids, so put the devkit at {root / DEVKIT_FOLDERS[0]}, or sort val into <wnid>/"
            )
    wnids = _wnids(paths[META])  # type: ignore[arg-type]
    truth_file: Path = paths[GROUND_TRUTH]  # type: ignore[assignment]
    try:
        truth = [int(word) for word in truth_file.read_text(encoding="utf-8").split()]
        classes = [wnids[number] for number in truth]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{truth_file}: not a list of ILSVRC2012_IDs: {error}") from error
    images = sorted(images, key=lambda image: image[1])
    if len(truth) != len(images):
        lines, pictures = number_of(len(truth), "line"), number_of(len(images), "image")
        raise DatasetError(f"{truth_file} has {lines} for the {pictures} of {root / 'val'}")
    return [(wnid, name, path, span) for wnid, (_, name, path, span) in zip(classes, images, strict=True)]


def _wnids(meta: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid, from the devkit's meta.mat."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        synsets: Any = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (OSError, KeyError, ValueError, IndexError, TypeError, MatReadError) as error:
        raise DatasetError(f"{meta}: not the devkit's meta.mat: {error}") from error
