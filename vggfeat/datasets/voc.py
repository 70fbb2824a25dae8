"""PASCAL VOC: classification (2007, 2012) and action classification (2012), as their devkits lay them out."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from vggfeat.datasets.sample import Box, Dataset, Sample
from vggfeat.errors import DatasetError
from vggfeat.system.numbers import number_of

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

ACTIONS = (
    "jumping",
    "phoning",
    "playinginstrument",
    "reading",
    "ridingbike",
    "ridinghorse",
    "running",
    "takingphoto",
    "usingcomputer",
    "walking",
)
"""The scored actions. A person doing something else ("other") is negative for all of them."""

UNLABELLED = 0
"""The label of test images, whose truth only the evaluation server has. Ignored, as difficult ones are."""

_SOURCES = {
    "VOC2007": "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/",
    "VOC2012": "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/",
}


def load_voc2007(data_root: str | Path) -> Dataset:
    """VOC-2007 classification: train, val and test images with labels 1, 0 (difficult), -1 a class."""
    return _classification("voc2007", Path(data_root, "VOCdevkit", "VOC2007"), labelled=("train", "val", "test"))


def load_voc2012(data_root: str | Path) -> Dataset:
    """VOC-2012 classification: train and val with labels, and the unlabelled test images if present."""
    return _classification("voc2012", Path(data_root, "VOCdevkit", "VOC2012"), labelled=("train", "val"))


def load_voc2012_action(data_root: str | Path) -> Dataset:
    """VOC-2012 action: one sample a person, id `<image>_<index>`, with the person's box; labels 1, -1 an action.

    Persons of the test set, if present, are unlabelled. Raises DatasetError for missing or damaged files.
    """
    root = Path(data_root, "VOCdevkit", "VOC2012")
    sets = _sets_folder("voc2012-action", root, "Action")
    samples: list[Sample] = []
    for subset in ("train", "val"):
        samples += _persons(root, subset, _person_labels(sets, subset))
    samples += _persons(root, "test", dict.fromkeys(_test_persons(root, sets), (UNLABELLED,) * len(ACTIONS)))
    seen: dict[str, str] = {}
    for sample in samples:
        first = seen.setdefault(sample.id, sample.subset)
        if first != sample.subset:
            raise DatasetError(f"{sets}: person {sample.id} is named in {first} and in {sample.subset}")
    return Dataset("voc2012-action", tuple(samples), ACTIONS)


def _classification(name: str, root: Path, labelled: tuple[str, ...]) -> Dataset:
    """The images of each subset in the order of `ImageSets/Main/<subset>.txt`."""
    sets = _sets_folder(name, root, "Main")
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for subset in ("train", "val", "test"):
        file = sets / f"{subset}.txt"
        if subset not in labelled and not file.exists():
            continue
        ids = []
        for number, (id, *_) in _lines(file, (1, 2)):
            _once(seen, id, file, number)
            ids.append(id)
        if subset in labelled:
            columns = [_image_labels(sets / f"{class_name}_{subset}.txt", file, ids) for class_name in CLASSES]
            labels = list(zip(*columns, strict=True))
        else:
            labels = [(UNLABELLED,) * len(CLASSES)] * len(ids)
        samples += [
            Sample(id, str(_image(root, id)), values, subset=subset) for id, values in zip(ids, labels, strict=True)
        ]
    return Dataset(name, tuple(samples), CLASSES)


def _once(seen: dict[str, str], name: str, file: Path, number: int) -> None:
    """Raises DatasetError for an image or person that the lists of a data set name twice."""
    place = f"{file.name}, line {number}"
    first = seen.setdefault(name, place)
    if first != place:
        raise DatasetError(f"{file}, line {number}: {name} is named twice, first in {first}; ids must be unique")


def _sets_folder(name: str, root: Path, task: str) -> Path:
    """`ImageSets/<task>`, once it and `JPEGImages` are known to exist."""
    for folder in (root / "ImageSets" / task, root / "JPEGImages"):
        if not folder.is_dir():
            raise DatasetError(
                f"no {name} here: {folder} is missing (`data` names the folder that holds VOCdevkit/; its archives are "
                f"at {_SOURCES[root.name]})",
                advice="download",
                dataset=root.name.lower(),
            )
    return root / "ImageSets" / task


def _image(root: Path, id: str) -> Path:
    return root / "JPEGImages" / f"{id}.jpg"


def _lines(file: Path, widths: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that is not blank; any white space separates columns."""
    try:
        text = file.read_text(encoding="ascii")
    except OSError as error:
        raise DatasetError(
            f"{file}: {error.strerror}; unpack all archives of {_source(file)} into one VOCdevkit folder"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not a VOC image set (byte {error.start} is not ASCII)") from error
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) not in widths:
            columns = " or ".join(str(width) for width in widths)
            raise DatasetError(f"{file}, line {number}: expected {columns} columns, found {line.strip()!r}")
        yield number, words


def _source(file: Path) -> str:
    return next((url for year, url in _SOURCES.items() if year in file.parts), "the VOC devkit")


def _image_labels(file: Path, set_file: Path, ids: list[str]) -> list[int]:
    """A class's labels 1, 0, -1; the file must list the images in the order of the image set."""
    lines = list(_lines(file, (2,)))
    if len(lines) != len(ids):
        raise DatasetError(f"{file} has {number_of(len(lines), 'image')}, {set_file.name} has {len(ids)}")
    labels = []
    for (number, (id, word)), expected in zip(lines, ids, strict=True):
        if id != expected:
            raise DatasetError(f"{file}, line {number}: image {id!r} where {set_file.name} has {expected!r}")
        labels.append(_label(file, number, word, ("1", "0", "-1")))
    return labels


def _label(file: Path, number: int, word: str, valid: tuple[str, ...]) -> int:
    if word not in valid:
        raise DatasetError(f"{file}, line {number}: label {word!r}; expected one of {', '.join(valid)}")
    return int(word)


Person = tuple[str, int]
"""An image's id and the 1-based index of the person among the objects of its annotation."""


def _person_labels(sets: Path, subset: str) -> dict[Person, tuple[int, ...]]:
    """Each person's labels; all class files of a subset must name the same persons."""
    columns: list[dict[Person, int]] = []
    for action in ACTIONS:
        file = sets / f"{action}_{subset}.txt"
        column: dict[Person, int] = {}
        for number, (id, index, label) in _lines(file, (3,)):
            person = (id, _index(file, number, index))
            if person in column:
                raise DatasetError(f"{file}, line {number}: person {id} {index} is given twice")
            column[person] = _label(file, number, label, ("1", "-1"))
        if columns and (odd := next(iter(column.keys() ^ columns[0].keys()), None)):
            raise DatasetError(
                f"{file} and {ACTIONS[0]}_{subset}.txt name different persons: {odd[0]} {odd[1]} is in one alone"
            )
        columns.append(column)
    return {person: tuple(column[person] for column in columns) for person in columns[0]}


def _test_persons(root: Path, sets: Path) -> list[Person]:
    """The persons of the test set, whose labels only the server has; empty where its archive was not unpacked.

    The list names persons (`id index`), or images, which stand for all persons of their annotations.
    """
    file = next((file for file in (sets / f"{ACTIONS[0]}_test.txt", sets / "test.txt") if file.exists()), None)
    if file is None:
        return []
    persons: list[Person] = []
    for number, words in _lines(file, (1, 2, 3)):
        if len(words) > 1:
            persons.append((words[0], _index(file, number, words[1])))
        else:
            objects = _objects(root, words[0])
            persons += [(words[0], at) for at, item in enumerate(objects, 1) if item.findtext("name") == "person"]
    return list(dict.fromkeys(persons))


def _index(file: Path, number: int, word: str) -> int:
    if not (word.isdecimal() and len(word) < 10 and int(word) >= 1):
        raise DatasetError(f"{file}, line {number}: object index {word!r} is not a number from 1")
    return int(word)


def _persons(root: Path, subset: str, labels: dict[Person, tuple[int, ...]]) -> Iterator[Sample]:
    """One sample a person. Persons of one image are adjacent, so each annotation is read once."""
    last, objects = "", list[ElementTree.Element]()
    for (id, index), values in labels.items():
        if id != last:
            last, objects = id, _objects(root, id)
        if index > len(objects):
            raise DatasetError(
                f"{_annotation(root, id)} has {number_of(len(objects), 'object')}; "
                f"ImageSets/Action ({subset}) names object {index}"
            )
        box = _box(root, id, objects[index - 1])
        yield Sample(f"{id}_{index}", str(_image(root, id)), values, box, subset)


def _annotation(root: Path, id: str) -> Path:
    return root / "Annotations" / f"{id}.xml"


def _objects(root: Path, id: str) -> list[ElementTree.Element]:
    """The annotated objects of an image, in file order."""
    file = _annotation(root, id)
    try:
        return ElementTree.parse(file).getroot().findall("object")
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}; unpack all archives of {_source(file)}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: bad encodings and their names
        raise DatasetError(f"{file}: not a VOC annotation: {error}") from error


def _box(root: Path, id: str, item: ElementTree.Element) -> Box:
    """The object's box, from VOC's 1-based inclusive pixels to 0-based half-open ones."""
    try:
        xmin, ymin, xmax, ymax = (
            float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError as error:
        raise DatasetError(f"{_annotation(root, id)}: an object without a complete bndbox") from error
    if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
        raise DatasetError(f"{_annotation(root, id)}: the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} is not finite")
    if not (xmax >= xmin and ymax >= ymin):
        raise DatasetError(f"{_annotation(root, id)}: the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} is empty")
    return (xmin - 1, ymin - 1, xmax, ymax)
