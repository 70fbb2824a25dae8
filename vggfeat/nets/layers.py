"""The layers of a net by name: conv1_1, ..., conv5_4, pool1, ..., pool5, fc6, fc7. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vggfeat.errors import UsageError, unknown_name
from vggfeat.nets.catalog import FC_CHANNELS, INPUT_SIDE, NETS, Conv, NetSpec, scaled

HIDDEN = ("fc6", "fc7")
"""The fully-connected layers that give descriptors (Appendix B takes fc7)."""


@dataclass(frozen=True)
class TrunkLayer:
    """A convolution, its ReLU included, or a pooling."""

    name: str
    module: int
    """Place, among the trunk's modules, of the last that computes it: a convolution's ReLU, or the pooling."""
    channels: int
    """At full width."""
    stride: int
    """Pixels of the image between neighbouring positions."""

    @property
    def has_relu(self) -> bool:
        """Whether it ends with a ReLU."""
        return self.name.startswith("conv")


def trunk_layers(spec: NetSpec) -> dict[str, TrunkLayer]:
    """The convolutions and poolings of a net by name, in order; blocks end with their pooling."""
    found: dict[str, TrunkLayer] = {}
    block, number, module, channels, stride = 1, 0, 0, 3, 1
    for layer in spec.layers:
        if isinstance(layer, Conv):
            number, module, channels = number + 1, module + 2, layer.channels
            name = f"conv{block}_{number}"
        elif layer == "M":
            module, stride, name = module + 1, stride * 2, f"pool{block}"
            block, number = block + 1, 0
        else:  # response normalisation has no name
            module += 1
            continue
        found[name] = TrunkLayer(name, module - 1, channels, stride)
    return found


def layer_names(spec: NetSpec, classifier: bool = True) -> tuple[str, ...]:
    """All layers that give descriptors, in order; `classifier`: whether the net has its fully-connected layers."""
    return (*trunk_layers(spec), *(HIDDEN if classifier else ()))


ALL_LAYERS: tuple[str, ...] = tuple(
    sorted(
        {name for spec in NETS.values() for name in layer_names(spec)},
        key=lambda name: (("conv", "pool", "fc").index(name.rstrip("0123456789_")), name),
    )
)
"""The names of the layers of any net."""


def layer_shape(spec: NetSpec, layer: str, width: float = 1.0) -> tuple[int, int]:
    """(channels, positions along a side) of a layer's map of one 224x224 crop."""
    if layer in HIDDEN:
        return scaled(FC_CHANNELS, width), 1
    its = trunk_layers(spec)[layer]
    return scaled(its.channels, width), INPUT_SIDE // its.stride


def check_layers(layers: Iterable[str], spec: NetSpec, classifier: bool = True) -> None:
    """Raises UsageError for a layer that a net does not have, naming those that it has."""
    valid = layer_names(spec, classifier)
    for layer in layers:
        if layer in HIDDEN and not classifier:
            raise UsageError(
                f"net {spec.name} has no fully-connected layers here, so no {layer}: take `layer={valid[-1]}`, or "
                f"another of {', '.join(valid)}"
            )
        if layer not in valid:
            raise unknown_name(f"layer of net {spec.name}", layer, valid)
