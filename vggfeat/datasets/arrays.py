"""Pictures in memory as arrays: which are taken, and what to do with those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.errors import ImageError

TAKEN = "an image has (H, W, 3) or (H, W) uint8 values from 0 to 255"
SCALING = "values from 0 to 1 become such by (255 * x).round().astype('uint8')"

FROM_FILES = (1, 3, 4)
"""Numbers of channels of common pictures: grey, RGB, RGBA."""


def picture_values(array: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3), (H, W) or (H, W, 1) uint8 values -> (H, W, 3) or (H, W). Raises ImageError, with the remedy."""
    if array.dtype != np.uint8 or not _is_picture(array) or not array.size:
        raise ImageError(f"array of {array.dtype} {array.shape}: {_remedy(array)}")
    return array[:, :, 0] if array.shape[2:] == (1,) else array


def not_a_picture(source: object) -> ImageError:
    """The error for what is neither an array nor a Pillow image, such as a tensor."""
    advice = "or a path"
    if hasattr(source, "permute"):
        first = _channels_first(getattr(source, "shape", (3, 0, 0)))
        advice = f"tensor.{'permute(1, 2, 0).' if first else ''}numpy() makes one"
    elif isinstance(source, tuple | list):
        advice = "or a path, such as its first item if that is the image and the others are labels"
    return ImageError(
        f"{type(source).__name__} is not an image: give a Pillow image or an array, {advice}; {TAKEN}; {SCALING}"
    )


def _channels_first(shape: Sequence[int]) -> bool:
    """Whether a tensor of three axes has its channels before its rows, as most have; (H, W, 3) has them last."""
    return len(shape) == 3 and not (shape[2] in FROM_FILES and shape[0] not in FROM_FILES)


def _is_picture(array: NDArray[Any]) -> bool:
    return array.ndim == 2 or array.shape[2:] in ((1,), (3,))


def _remedy(array: NDArray[Any]) -> str:
    """What makes a picture of an array: of its axes, of its values, or of both."""
    axes = [] if _is_picture(array) else _axes(array)
    values = [] if array.dtype == np.uint8 else [_values(array)]
    return "; ".join([*axes, TAKEN, *values])


def _axes(array: NDArray[Any]) -> list[str]:
    if array.ndim == 3 and array.shape[2] == 4:
        return ["of RGBA, Image.fromarray(x) makes the transparent parts white, x[..., :3] drops the transparency"]
    if array.ndim == 3 and array.shape[0] in FROM_FILES:
        return ["its channels are first: x.transpose(1, 2, 0) puts them last"]
    return []


def _values(array: NDArray[Any]) -> str:
    """How other values become 0 to 255; which of the scales theirs is, the caller knows."""
    if array.dtype.kind not in "biuf" or not array.size:
        return SCALING
    least, most = array.min(), array.max()
    if least < 0:
        return "values below 0 are a net's input: give the picture before it was normalised, which is done here"
    if most > 1:
        return (
            "values from 0 to 255 become such by x.round().astype('uint8'), "
            "those from 0 to another m by (255 / m * x).round().astype('uint8')"
        )
    return SCALING
