"""The layers of a net by name: conv1_1, ..., conv5_4, pool1, ..., pool5, fc6, fc7. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vggfeat.errors import UsageError
from vggfeat.nets.catalog import DISPLAY_NAMES, FC_CHANNELS, INPUT_SIDE, NETS, Conv, NetSpec, scaled

HIDDEN = ("fc6", "fc7")
"""The fully-connected layers that describe an image (Appendix B takes fc7)."""


@dataclass(frozen=True)
class TrunkLayer:
    """A convolution, its ReLU included, or a pooling."""

    module: int
    """Place, among the trunk's modules, of the last that computes it: a convolution's ReLU, or the pooling."""
    channels: int
    """At full width."""
    stride: int
    """Pixels of the image between neighbouring positions."""
    has_relu: bool


def trunk_layers(spec: NetSpec) -> dict[str, TrunkLayer]:
    """The convolutions and poolings of a net by name, in order."""
    found: dict[str, TrunkLayer] = {}
    names = iter(spec.layer_names)
    module, channels, stride = -1, 3, 1
    for layer in spec.layers:
        if isinstance(layer, Conv):
            module, channels = module + 2, layer.channels
            found[next(names)] = TrunkLayer(module, channels, stride, has_relu=True)
        elif layer == "M":
            module, stride = module + 1, stride * 2
            found[next(names)] = TrunkLayer(module, channels, stride, has_relu=False)
        else:  # response normalisation, which has no name
            module += 1
    return found


POOLING_MARK = ":"
"""Between a layer's name and the pooling of its map, as in "pool5:max", where it is not the one of all layers."""


def without_pooling(layer: str) -> str:
    """The name of the layer alone: "pool5" for "pool5:max"."""
    return layer.partition(POOLING_MARK)[0]


def has_relu(layer: str) -> bool:
    """Whether a layer of that name ends with a ReLU: all but the poolings."""
    return not layer.startswith("pool")


LAYERS: tuple[str, ...] = tuple(
    sorted(
        {name for spec in NETS.values() for name in spec.layer_names},
        key=lambda name: (("conv", "pool", "fc").index(name.rstrip("0123456789_")), name),
    )
)
"""The names of the layers of any net."""


def check_layers(spec: NetSpec, layers: Sequence[str]) -> None:
    """Raises UsageError for a layer that a net does not have; "scores", the last one before the soft-max, all have."""
    for layer in map(without_pooling, layers):
        if layer not in (*spec.layer_names, "scores"):
            have = ", ".join(spec.layer_names)
            raise UsageError(f"net {DISPLAY_NAMES[spec.name]} has no layer {layer!r}; it has {have}")


def layer_shape(spec: NetSpec, layer: str, width: float = 1.0) -> tuple[int, int]:
    """(channels, positions along a side) of a layer's map of one 224x224 crop."""
    if layer in HIDDEN:
        return scaled(FC_CHANNELS, width), 1
    its = trunk_layers(spec)[layer]
    return scaled(its.channels, width), INPUT_SIDE // its.stride
