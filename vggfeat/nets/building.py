"""Layers of a file -> a net of Table 1."""

from __future__ import annotations

import torch
from torch import Tensor

from vggfeat.errors import WeightsError
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.identify import identified, layer_shapes, width_of
from vggfeat.nets.networks import VGG, weighted_layers
from vggfeat.system.numbers import number_of

MAX_WIDTH = 1000.0
"""No machine holds a net of this width factor."""


def build(what: str, content: Contents, net: str | None = None) -> VGG:
    """The net that has these layers: with its three fully-connected ones, or without all of them.

    Its preprocessing is still to be set (`recognise.decided`).

    Args:
        what: the file, for messages.
        net: name in Table 1; needed only where the shapes fit several nets (A and A-LRN).

    Raises WeightsError where the layers make no net of Table 1, UsageError where they make another one than `net`.
    """
    layers, shapes, classes = content.layers, content.shapes, content.outputs
    _check_order(what, layers)
    spec = identified(what, content, net)
    width = content.width if content.width is not None else width_of(spec, shapes)
    if width is None or not 0 < width < MAX_WIDTH or shapes != layer_shapes(spec, width, classes):
        raise WeightsError(f"{what}: its layers' shapes are not those of net {spec.name} at width {width}")
    for layer in layers:
        if layer.bias.shape != layer.weight.shape[:1]:
            raise WeightsError(
                f"{what}: {layer.name} has {number_of(layer.weight.shape[0], 'output')} and "
                f"{number_of(layer.bias.numel(), 'bias')}"
            )
    if content.class_names and len(content.class_names) != classes:
        raise WeightsError(
            f"{what}: names {number_of(len(content.class_names), 'class')} and scores {classes or 'none'}"
        )
    with torch.device("meta"):
        model = VGG(
            spec.name,
            width=width,
            num_classes=classes or 0,
            class_names=content.class_names,
            top=classes is not None,
        )
    model.training_record = content.training_record
    names = {module: name for name, module in model.named_modules()}
    state: dict[str, Tensor] = {}
    for module, layer in zip(weighted_layers(model), layers, strict=True):
        state[f"{names[module]}.weight"] = _finite(what, layer, layer.weight)
        state[f"{names[module]}.bias"] = _finite(what, layer, layer.bias)
    model.load_state_dict(state, assign=True)
    return model


def _check_order(what: str, layers: list[Layer]) -> None:
    """Raises WeightsError unless the layers are convolutions, then three fully-connected ones or none."""
    convs = sum(layer.weight.ndim == 4 for layer in layers)
    for place, layer in enumerate(layers):
        kind, ndim = ("convolution", 4) if place < convs else ("fully-connected layer", 2)
        if layer.weight.ndim != ndim:
            raise WeightsError(f"{what}: {layer.name} of shape {tuple(layer.weight.shape)} is no {kind}")
    connected = len(layers) - convs
    if connected not in (0, 3):
        raise WeightsError(
            f"{what}: has {number_of(connected, 'fully-connected layer')}; a net of Table 1 has three, "
            "a features-only file 0"
        )


def _finite(what: str, layer: Layer, values: Tensor) -> Tensor:
    """The values as float32. Raises WeightsError if one is NaN or infinite."""
    values = values.detach().to(torch.float32).contiguous()
    if not all(torch.isfinite(extreme) for extreme in values.aminmax()):
        raise WeightsError(f"{what}: {layer.name} has values that are NaN or infinite")
    return values
