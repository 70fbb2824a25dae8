"""What a reader of weights returns, whatever the format of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from vggfeat.nets.catalog import Preprocessing


class Layer(NamedTuple):
    """One layer's values in torch's layout."""

    name: str
    """As the file has it."""
    weight: Tensor
    """(out, in, k, k) for a convolution, (out, in) for a fully-connected layer; the first one reads C, H, W order."""
    bias: Tensor
    """(out,)."""


@dataclass(frozen=True)
class Contents:
    """The layers in a weights file, and what the file says about them."""

    layers: list[Layer]
    """In the order of the net."""
    preprocessing: Preprocessing
    net: str | None = None
    """Name in Table 1, where the file says it."""
    width: float | None = None
    class_names: tuple[str, ...] = ()
    training_record: dict[str, Any] = field(default_factory=dict)
