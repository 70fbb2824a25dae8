"""224x224 crops of a rescaled picture: the central one, and a regular grid of them (Sect. 3.2)."""

from __future__ import annotations

import numpy as np

from vggfeat.datasets.images import Picture
from vggfeat.nets.catalog import INPUT_SIDE

GRID = 5
"""Crops along each side: a regular grid of 5 x 5, each with its mirror image, is 50 crops a scale (Sect. 3.2)."""


def grid_crops(picture: Picture, count: int = GRID) -> list[Picture]:
    """`count` x `count` crops of 224x224 at regular distances from border to border, row by row; views, no copies."""
    height, width, _ = picture.shape
    tops, lefts = (np.linspace(0, side - INPUT_SIDE, count).round().astype(int) for side in (height, width))
    return [picture[top : top + INPUT_SIDE, left : left + INPUT_SIDE] for top in tops for left in lefts]


def centre_crop(picture: Picture) -> Picture:
    """The central 224x224."""
    top, left = ((side - INPUT_SIDE) // 2 for side in picture.shape[:2])
    return picture[top : top + INPUT_SIDE, left : left + INPUT_SIDE]
