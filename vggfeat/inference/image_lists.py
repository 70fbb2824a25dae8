"""What a program gives as its images -> samples: paths, pictures in memory, arrays of them, or a data set.

Where an input has two readings, the error says both and how to give either; nothing is guessed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import UsageError

CHANNELS = (1, 2, 3, 4)
"""Sizes of an axis that may be the channels of a picture: grey, RGB, each with or without transparency."""


@dataclass(frozen=True, slots=True)
class _Held(Sample):
    """An image that is in memory already."""

    picture: Any = None

    def source(self) -> Any:
        return self.picture


def samples_of(X: Any, exif: bool) -> list[Sample]:
    """The images, in their order. Raises UsageError for what is not clearly a list of images.

    Args:
        X: paths, pictures, samples; an array of pictures, or a column of paths; or a Dataset.
        exif: whether their EXIF orientation will count.
    """
    return [_sample(position, image) for position, image in enumerate(_listed(X, exif))]


def _sample(position: int, image: Any) -> Sample:
    if isinstance(image, Sample):
        return image
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return Sample(path, path)
    return _Held(f"{position}", "", picture=image)


def _listed(X: Any, exif: bool) -> Iterable[Any]:
    if isinstance(X, Dataset):
        return _of_dataset(X, exif)
    if isinstance(X, str | os.PathLike | bytes):
        raise UsageError(f"VGGFeatures takes a list of images, not one: [{os.fspath(X)!r}]")
    if hasattr(X, "columns"):
        raise UsageError("a table is not a list of images: pass its column of paths, such as table['path']")
    if isinstance(X, np.ndarray):
        return _of_array(X) if X.dtype.kind in "biuf" else _of_objects(X)
    if hasattr(X, "__getitem__") and hasattr(X, "__len__") and not hasattr(X, "__iter__"):
        raise UsageError(_indexed(X))
    if not hasattr(X, "__iter__") or hasattr(X, "getbands"):  # a Pillow image
        raise UsageError(f"VGGFeatures takes a list of images, not one: [{type(X).__name__}]")
    images: Iterable[Any] = X
    return images


def _of_dataset(dataset: Dataset, exif: bool) -> Sequence[Sample]:
    """A data set's images. `extract` would read a benchmark's without their EXIF orientation, so this is asked for."""
    if exif and not dataset.exif:
        raise UsageError(f"the images of {dataset.name} count without their EXIF orientation: give `exif=False`")
    return dataset.samples


def _of_objects(X: NDArray[Any]) -> NDArray[Any]:
    """Paths or pictures in an array: a list of them, or a column."""
    if X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1):
        return X.reshape(-1)
    advice = "pass the column of the paths, such as X[:, 0]" if X.ndim == 2 else "pass a list of images"
    raise UsageError(f"an array of {X.dtype} {X.shape} is not a list of images: {advice}")


def _of_array(X: NDArray[Any]) -> Iterable[Any]:
    """The pictures of an array of numbers."""
    if X.ndim < 2:
        raise UsageError(f"an array of shape {X.shape} has no images: VGGFeatures takes a list, or (n, H, W, 3)")
    if X.ndim == 2:
        raise UsageError(_rows(X))
    if X.ndim == 3:
        return _of_three_axes(X)
    if X.ndim == 4 and X.shape[3] not in CHANNELS and X.shape[1] in CHANNELS:
        raise UsageError(f"an array of shape {X.shape} has its channels before its rows: give X.transpose(0, 2, 3, 1)")
    return X


def _of_three_axes(X: NDArray[Any]) -> Iterable[Any]:
    """n grey pictures (n, H, W), where no axis may be the channels of a single one."""
    if X.shape[2] in CHANNELS:
        raise UsageError(f"an array of shape {X.shape} is one image: VGGFeatures takes a list, or (n, H, W, 3)")
    if X.shape[0] in (3, 4):
        raise UsageError(
            f"an array of shape {X.shape} is {X.shape[0]} grey images, or one with its channels first: "
            "give list(X), or [X.transpose(1, 2, 0)]"
        )
    return X


def _rows(X: NDArray[Any]) -> str:
    """What a matrix may be: one grey picture, or a row of pixels for each of several."""
    side = math.isqrt(X.shape[1])
    shape = f"{side}, {side}" if side * side == X.shape[1] else "H, W"
    return (
        f"an array of shape {X.shape} is one grey image, or has a row of pixels for each of {X.shape[0]}: "
        f"give [X], or X.reshape(-1, {shape})"
    )


def _indexed(X: Any) -> str:
    """What to give in place of a torch data set, whose items are not iterated over."""
    name = type(X).__name__
    if hasattr(X, "imgs"):  # torchvision's ImageFolder
        return f"{name} is a data set, not a list of images: give its paths, [path for path, _ in X.imgs]"
    return (
        f"{name} is a data set, not a list of images: give [X[i] for i in range(len(X))], "
        "or X[i][0] if an item is an image with its label"
    )
