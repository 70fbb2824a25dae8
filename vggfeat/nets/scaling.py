"""Pixels -> a net's input values."""

from __future__ import annotations

import torch
from torch import Tensor

from vggfeat.nets.catalog import Preprocessing


class InputScaling:
    """The preprocessing formula (v * scale - mean) / std, computed as one multiplication and one subtraction.

    Args:
        expected: what the weights expect.
        device: of the pixels.
    """

    def __init__(self, expected: Preprocessing, device: torch.device | str = "cpu") -> None:
        std = torch.tensor(expected.std, dtype=torch.float32, device=device)
        self._bgr = expected.channels == "BGR"
        self._factor = expected.scale / std
        self._offset = torch.tensor(expected.mean, dtype=torch.float32, device=device) / std

    def __call__(self, pixels: Tensor, axis: int = -1) -> Tensor:
        """RGB values 0 to 255 of any type, channels along an axis -> float32, in the weights' channel order."""
        if self._bgr:
            pixels = pixels.flip(axis)
        shape = [1] * pixels.ndim
        shape[axis] = 3
        return pixels.float() * self._factor.view(shape) - self._offset.view(shape)
