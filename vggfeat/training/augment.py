"""Augmentation: scale, crop, flip, colour shift (Sect. 3.1).

Every random number follows from the seed, the update and the image's position in the whole batch, never from a worker,
a process or earlier draws. Runs can be split, interrupted and resumed without changing a crop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggfeat.datasets.images import Picture, rescaled_size
from vggfeat.nets.catalog import INPUT_SIDE

_ORDER, _IMAGE, _FIXED = 0, 1, 2  # streams of random numbers


def random_stream(seed: int, stream: int, a: int = 0, b: int = 0) -> np.random.Generator:
    """Independent random numbers for each (seed, stream, a, b)."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, a, b]))


def epoch_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """The order in which an epoch (from 0) visits `length` images: (length,)."""
    return random_stream(seed, _ORDER, epoch).permutation(length)


@dataclass(frozen=True)
class Colours:
    """Mean and principal components of a training set's RGB values."""

    mean: tuple[float, float, float]
    """In grey levels, 0 to 255."""
    eigenvalues: tuple[float, float, float]
    """Of the covariance of RGB in [0, 1], largest first."""
    eigenvectors: tuple[tuple[float, float, float], ...]
    """One a row, in the order of the eigenvalues; signs chosen so that each sums to a non-negative number."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of R, G and B, in grey levels."""
        variances = np.asarray(self.eigenvalues) @ np.square(np.asarray(self.eigenvectors))
        red, green, blue = (255.0 * np.sqrt(variances)).tolist()
        return red, green, blue

    def shift(self, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        """255 P (alpha L): grey levels to add to R, G and B. alphas (3,) -> (3,)."""
        return 255.0 * (np.asarray(self.eigenvectors).T @ (alphas * np.asarray(self.eigenvalues)))


Moments = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean (3,) and mean outer product (3, 3) of a picture's RGB values in [0, 1]."""


def moments(picture: Picture) -> Moments:
    """One picture's contribution to `colours`."""
    values = picture.reshape(-1, 3).astype(np.float64) / 255.0  # (H W, 3)
    return values.mean(axis=0), values.T @ values / len(values)


def colours(of_pictures: Iterable[Moments]) -> Colours:
    """Mean RGB and principal components; every picture weighs the same whatever its size.

    Raises ValueError without pictures.
    """
    count, first, second = 0, np.zeros(3), np.zeros((3, 3))
    for mean, outer in of_pictures:
        count, first, second = count + 1, first + mean, second + outer
    if not count:
        raise ValueError("no picture to take colours from")
    mean = first / count
    values, vectors = np.linalg.eigh(second / count - np.outer(mean, mean))  # ascending; vectors in columns
    rows = vectors.T[::-1] * np.where(vectors.sum(axis=0)[::-1] < 0, -1.0, 1.0)[:, None]
    red, green, blue = (255.0 * mean).tolist()
    largest, middle, least = np.maximum(values[::-1], 0.0).tolist()
    return Colours((red, green, blue), (largest, middle, least), tuple((a, b, c) for a, b, c in rows.tolist()))


@dataclass(frozen=True)
class CropView:
    """One crop of a picture: rescale to smallest side Q, cut a square of INPUT_SIDE at (left, top), flip, shift."""

    Q: int
    left: int
    top: int
    flip: bool
    shift: tuple[float, float, float]
    """Grey levels to add to R, G, B."""


@dataclass(frozen=True)
class Augmentation:
    """Random views (Sect. 3.1)."""

    S: tuple[int, int]
    flip: bool
    colour_std: float
    colours: Colours
    seed: int
    fixed: bool = False
    """Whether crops follow from the image and a number, not from the update and the position in the batch."""

    def view(self, size: tuple[int, int], step: int, position: int) -> CropView:
        """The view of a picture of that (width, height) at an update, at a position in the whole batch.

        Of fixed crops: the view number `step` of the image number `position`.
        """
        random = random_stream(self.seed, _FIXED if self.fixed else _IMAGE, position, step)
        scale, x, y, flip = random.random(4)
        low, high = self.S
        Q = low + int(scale * (high - low + 1))
        width, height = rescaled_size(*size, Q)
        shift = self.colours.shift(self.colour_std * random.standard_normal(3))
        return CropView(
            Q,
            int(x * (width - INPUT_SIDE + 1)),
            int(y * (height - INPUT_SIDE + 1)),
            self.flip and bool(flip < 0.5),
            (float(shift[0]), float(shift[1]), float(shift[2])),
        )


@dataclass(frozen=True)
class CentreView:
    """The central crop at smallest side Q, for validation during training."""

    Q: int

    def view(self, size: tuple[int, int], step: int, position: int) -> CropView:
        """The same view whatever the update and the position."""
        width, height = rescaled_size(*size, self.Q)
        return CropView(self.Q, (width - INPUT_SIDE) // 2, (height - INPUT_SIDE) // 2, False, (0.0, 0.0, 0.0))
