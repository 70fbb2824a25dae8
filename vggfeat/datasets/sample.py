"""The types that every data set reader returns."""

from __future__ import annotations

from dataclasses import dataclass

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

    def source(self) -> str | bytes:
        """What images.decode takes: the path, or the bytes of a member of a tar file.

        Raises ImageError where the tar file has gone or ends too early.
        """
        if self.span is None:
            return self.path
        offset, length = self.span
        try:
            with open(self.path, "rb") as stream:  # noqa: PTH123 - as in images.py
                stream.seek(offset)
                content = stream.read(length)
        except OSError as error:
            raise ImageError(f"{self.path}: {error.strerror}") from None
        if len(content) < length:
            raise ImageError(f"{self.path} ends inside of it")
        return content


@dataclass(frozen=True)
class Dataset:
    """A list of samples and what they have in common."""

    name: str
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...] = ()
    exif: bool = False
    """Whether EXIF orientation is honoured: yes for users' own pictures, no for the benchmark sets."""
