"""The types that every data set reader returns."""

from __future__ import annotations

from dataclasses import dataclass

from vggfeat.datasets.tars import read_member
from vggfeat.errors import ImageError

Box = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) in pixels, 0-based, half-open: width is xmax - xmin."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, or one person of one image, with what its data set says of it."""

    id: str
    """Unique in its list. The path as given for users' own images, the data set's own id for benchmarks."""
    path: str
    """The file to open. Bytes that are no UTF-8 are kept as surrogate escapes, as os.fsdecode gives them."""
    labels: int | tuple[int, ...] | None = None
    """A class index (single-label), one value of 1, 0 (difficult), -1 a class (multi-label), or None."""
    box: Box | None = None
    subset: str = ""
    """The data set's own part: "train", "val", "test", or "" where it has none."""
    span: tuple[int, int] | None = None
    """(offset, length) in bytes where `path` is a tar file that holds the image; None where it is the image."""
    error: str = ""
    """Why it cannot be read, where its data set knows that already: a damaged tar file."""
    boxes: tuple[Box, ...] = ()
    """Where the class's objects are (ILSVRC), as fractions of the width and height; empty where that is not known."""

    def source(self) -> str | bytes:
        """What images.decode takes: the path, or the bytes of a member of a tar file.

        Raises ImageError where it is known to be lost or its tar file ends too early, ReadError where that has gone.
        """
        if self.error:
            raise ImageError(self.error)
        return self.path if self.span is None else read_member(self.path, *self.span)


@dataclass(frozen=True)
class Dataset:
    """A list of samples and what they have in common."""

    name: str
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...] = ()
    exif: bool = False
    """Whether EXIF orientation is honoured: yes for users' own pictures, no for the benchmark sets."""
