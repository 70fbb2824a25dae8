"""ILSVRC's bounding boxes: one XML file an image, in VOC's format."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from vggfeat.datasets.sample import Box
from vggfeat.errors import DatasetError


def read_boxes(file: str | Path, wnid: str) -> tuple[Box, ...]:
    """The boxes of a class in an image's annotation, in file order, as fractions of the image's width and height.

    Fractions, because some boxes were drawn on a copy of another size, which the file records. Its pixels are 0-based
    and inclusive. Boxes are clipped to the image; empty boxes and those of another wnid are left out (some files have
    the class's English name instead of its wnid: these boxes count).

    Without a file there are no boxes: most training images of ILSVRC have no annotation.
    Raises DatasetError for a file that is not such an annotation.
    """
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - half a million of them: pathlib would cost seconds
            root = ElementTree.parse(stream).getroot()
        width, height = (_number(root, f"size/{side}") for side in ("width", "height"))
        if not (width > 0 and height > 0):
            raise ValueError(f"its picture is {width:g}x{height:g} pixels")
        found = [
            _fractions(item, width, height) for item in root.iter("object") if _same(item.findtext("name", ""), wnid)
        ]
    except FileNotFoundError:
        return ()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{file}: not a bounding-box annotation of ILSVRC: {error}") from error
    return tuple(box for box in found if box[0] < box[2] and box[1] < box[3])


def _same(name: str, wnid: str) -> bool:
    """Whether an object is of the image's class; a name that is not a wnid is taken as the class's English name."""
    is_wnid = name[:1] == "n" and name[1:].isdecimal()
    return name == wnid or not is_wnid


def _fractions(item: ElementTree.Element, width: float, height: float) -> Box:
    xmin, ymin, xmax, ymax = (_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))

    def within(value: float) -> float:
        return min(max(value, 0.0), 1.0)

    return within(xmin / width), within(ymin / height), within((xmax + 1) / width), within((ymax + 1) / height)


def _number(item: ElementTree.Element, path: str) -> float:
    """The finite number at a path below an element. Raises ValueError, which names the path, for anything else."""
    text = item.findtext(path, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path} is {text!r}, not a number")
    return value
