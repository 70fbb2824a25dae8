"""Which net of Table 1 some layers are, and at which width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch

from vggfeat.errors import UsageError, WeightsError
from vggfeat.nets.catalog import DISPLAY_NAMES, FC_CHANNELS, NETS, NetSpec, net_spec, scaled
from vggfeat.nets.contents import Contents
from vggfeat.nets.networks import POOLED_SIDE, VGG, weighted_layers
from vggfeat.system.numbers import number_of

Shape = tuple[int, ...]


def identified(what: str, content: Contents, net: str | None) -> NetSpec:
    """The net of Table 1 that the layers belong to; `net` chooses where several are alike (A and A-LRN).

    Args:
        what: the file, for messages.

    Raises WeightsError where the layers fit no net, UsageError where they fit another one than `net`.
    """
    if content.net is not None:
        found = [net_spec(content.net)]
    else:
        found = [spec for spec in NETS.values() if width_of(spec, content.shapes) is not None]
        # torchvision's names count modules, so they show where an LRN layer is.
        names = [layer.name for layer in content.layers]
        named = [spec for spec in found if _names(spec, content.outputs is not None) == names]
        if named and named[0] != found[0]:
            found = named
    if not found:
        raise WeightsError(
            f"{what}: its {number_of(len(content.layers), 'layer has', 'layers have')} the shapes of no net of "
            "Table 1, at no width factor"
        )
    if content.steps:
        computed = [spec for spec in found if _difference(spec, content.steps) is None]
        if not computed:
            raise WeightsError(
                f"{what}: has the weights of net {DISPLAY_NAMES[found[0].name]}, but computes something else: "
                f"{_difference(found[0], content.steps)}"
            )
        found = computed
    if net is None:
        return found[0]
    asked = net_spec(net)
    if asked not in found:
        raise UsageError(f"{what}: holds net {DISPLAY_NAMES[found[0].name]}, not {DISPLAY_NAMES[asked.name]}")
    return asked


def layer_shapes(spec: NetSpec, width: float, num_classes: int | None) -> list[Shape]:
    """The weights' shapes of a net, in order; without the fully-connected layers where `num_classes` is None."""
    shapes: list[Shape] = []
    previous = 3
    for conv in spec.convs:
        channels = scaled(conv.channels, width)
        shapes.append((channels, previous, conv.kernel, conv.kernel))
        previous = channels
    if num_classes is None:
        return shapes
    hidden = scaled(FC_CHANNELS, width)
    return [*shapes, (hidden, previous * POOLED_SIDE**2), (hidden, hidden), (num_classes, hidden)]


def width_of(spec: NetSpec, shapes: list[Shape]) -> float | None:
    """The simplest width factor at which a net has these shapes, all of them or the convolutions alone; else None."""
    full = [conv.channels for conv in spec.convs] + [FC_CHANNELS] * 2
    top = shapes[-1][0] if shapes and len(shapes[-1]) == 2 else None
    found = [shape[0] for shape in (shapes if top is None else shapes[:-1])]
    if top is None:
        full = full[:-2]
    if len(full) != len(found):
        return None
    # Channels are rounded: each layer allows an interval of factors, and one of at most half a channel to 1.
    low = max((have - 0.5) / want if have > 1 else 0.0 for have, want in zip(found, full, strict=True))
    high = min((have + 0.5) / want for have, want in zip(found, full, strict=True))
    simple = found[-1] / full[-1]
    width = simple if low < simple < high else (low + high) / 2
    return width if width > 0 and layer_shapes(spec, width, top) == shapes else None


def _difference(spec: NetSpec, steps: Sequence[str]) -> str | None:
    """Where a graph first leaves the convolutional part of a net, up to the graph's last convolution at least."""
    convs = [place for place, step in enumerate(steps, start=1) if step == "Conv"]
    trunk = steps[: max([len(spec.steps), *convs])]
    for place, (want, have) in enumerate(zip_longest(spec.steps, trunk), start=1):
        if want != have:
            return f"its step {place} is {have or 'missing'}, not {want or 'in the net'}"
    return None


def _names(spec: NetSpec, top: bool) -> list[str]:
    """torchvision's names of a net's layers with weights."""
    with torch.device("meta"):
        model = VGG(spec.name, width=1 / 64, top=top)
    names = {module: name for name, module in model.named_modules()}
    return [names[module] for module in weighted_layers(model)]
