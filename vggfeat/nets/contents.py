"""What a reader of weights returns, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from vggfeat.nets.known import Layout
from vggfeat.nets.preprocessing import Preprocessing


class Layer(NamedTuple):
    """One layer's values in torch's layout."""

    name: str
    """As the file has it."""
    weight: Tensor
    """(out, in, k, k) for a convolution, (out, in) for a fully-connected layer; the first one reads C, H, W order."""
    bias: Tensor
    """(out,)."""

    @classmethod
    def from_hwio(cls, name: str, kernel: Tensor, bias: Tensor, before: Sequence[Layer]) -> Layer:
        """A layer of TensorFlow's, Keras' or MatConvNet's layout: kernels (H, W, in, out), matrices (in, out).

        Args:
            before: the layers before it; the first matrix after convolutions reads their map in H, W, C order.
        """
        if kernel.ndim == 4:
            return cls(name, kernel.permute(3, 2, 0, 1).contiguous(), bias)
        if kernel.ndim == 2 and before and before[-1].weight.ndim == 4:
            channels = len(before[-1].weight)
            side = round((len(kernel) / channels) ** 0.5) if channels else 0
            if side and side * side * channels == len(kernel):
                ordered = kernel.reshape(side, side, channels, -1).permute(3, 2, 0, 1)  # H W C O -> O C H W
                return cls(name, ordered.flatten(1), bias)
        return cls(name, kernel.T.contiguous() if kernel.ndim == 2 else kernel, bias)


@dataclass(frozen=True)
class Contents:
    """The layers in a weights file, and what the file says about them."""

    layers: list[Layer]
    """In the order of the net."""
    layout: Layout = "other"
    preprocessing: Preprocessing | None = None
    """Where the file says it."""
    any_head: bool = False
    """Whether a format describes whole models, so that fully-connected layers may be the user's own and not a net's."""
    own_head: bool = False
    """Whether the file is known to have a head of another form; only its convolutions are in `layers`."""
    steps: tuple[str, ...] = ()
    """What a graph computes, in order and in the words of `NetSpec.steps`, head included; empty for weights alone."""
    net: str | None = None
    """Name in Table 1, where the file says it."""
    width: float | None = None
    class_names: tuple[str, ...] = ()
    training_record: dict[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The weights' shapes, in order."""
        return [tuple(layer.weight.shape) for layer in self.layers]

    @property
    def outputs(self) -> int | None:
        """Outputs of the last layer where that is fully connected; None for convolutions alone."""
        last = self.shapes[-1] if self.layers else ()
        return last[0] if len(last) == 2 else None
