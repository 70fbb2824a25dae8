"""The types that every data set reader returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from vggfeat.datasets.origin import Origin
from vggfeat.datasets.tars import read_member
from vggfeat.errors import ImageError, ReadError
from vggfeat.system.numbers import number_of
from vggfeat.system.remote import is_url, read_all

Box = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) in pixels, 0-based, half-open: width is xmax - xmin."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, or one person in an image, with its annotations.

    Args:
        id: unique in its list: the path as given for users' own images, the data set's id for benchmarks.
        path: the file to open. Bytes outside UTF-8 are surrogate escapes, as in os.fsdecode.
        labels: a class index (single-label), or 1, 0 (difficult) or -1 for each class (multi-label), or None.
        box: of the person, (xmin, ymin, xmax, ymax) in pixels, 0-based, half-open.
        subset: the part of the data set: "train", "val", "test", or "" without parts.
        span: (offset, length) in bytes if `path` is a tar file that holds the image; None if it is the image.
        error: why it cannot be read, if that is known from the start: a damaged tar file.
        boxes: boxes of the class's objects (ILSVRC), as fractions of width and height; empty if unknown.
    """

    id: str
    path: str
    labels: int | tuple[int, ...] | None = None
    box: Box | None = None
    subset: str = ""
    span: tuple[int, int] | None = None
    error: str = ""
    boxes: tuple[Box, ...] = ()

    def source(self) -> str | bytes:
        """The source for images.decode: the path, or the bytes of a member of a tar file or of a URL.

        Raises ImageError if the image is lost or its tar file is cut off, ReadError if the tar file cannot be read.
        """
        if self.error:
            raise ImageError(self.error)
        if self.span is not None:
            return read_member(self.path, *self.span)
        return read_url(self.path) if is_url(self.path) else self.path


def read_url(url: str) -> bytes:
    """A picture by URL. Raises ReadError if it cannot be read."""
    try:
        return read_all(url)
    except OSError as error:
        raise ReadError(f"{error.strerror or error}") from None


SUBSETS = ("train", "val", "test")
"""What a data set's parts are called."""

MAX_MEGAPIXELS = 100.0
"""Default limit on an image's million pixels: 300 MB decoded. Most larger ones are decompression bombs."""

OWN = ("images", "folder")
"""Names of data sets that are a user's own pictures, whose EXIF orientation counts; benchmarks ignore it."""


@dataclass(frozen=True)
class Dataset:
    """A list of samples with their classes: what `load_dataset` gives, or one of your own.

    Args:
        name: of the data set; a benchmark's brings its protocol.
        samples: the images, each a `Sample`.
        class_names: in the order of the labels' indices.
        exif: whether EXIF orientation is applied: yes for users' own pictures, no for benchmarks.
        origin: where it was read; None for lists from a pipe, and samples that a program made.
    """

    name: str
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...] = ()
    exif: bool = False
    origin: Origin | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        images, classes = number_of(len(self.samples), "image"), number_of(len(self.class_names), "class")
        return f"<Dataset {self.name}: {images}, {classes}>"
