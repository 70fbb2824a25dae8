"""Initial weights: layers of a trained net (Sect. 3.1), or values scaled to the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vggfeat.errors import WeightsError
from vggfeat.nets.networks import VGG, weighted_layers

COPIED_CONVS = 4
"""Number of first convolutions that a deeper net takes from a trained A (Sect. 3.1)."""

FIRST_SCORES = 0.1
"""Standard deviation of the class scores after `standardise_`."""


def table_layers(net: VGG) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers with weights by their usual names: conv1_1, ..., fc6, fc7, fc8. A net without its top has no fc."""
    return dict(zip(net.spec.weighted_names, weighted_layers(net), strict=net.has_top))


def copy_layers(net: VGG, source: VGG, *, but: Sequence[str] = ()) -> list[str]:
    """Copies a trained net's layers into `net` and returns their names (Sect. 3.1).

    The same configuration gives all layers, another one its first four convolutions and the fully-connected layers.
    Copied are those that `net` has under the same name and in the same shape, except `but`. So A gives a deeper net
    conv1_1, conv2_1, conv3_1 and conv3_2. The source's preprocessing comes with conv1_1, whose values expect it.

    Raises WeightsError where no layer fits.
    """
    wanted = list(table_layers(source).items())
    if source.net != net.net:
        wanted = wanted[:COPIED_CONVS] + [(name, layer) for name, layer in wanted if isinstance(layer, nn.Linear)]
    own, copied = table_layers(net), []
    for name, layer in wanted:
        target = own.get(name)
        if name in but or target is None or target.weight.shape != layer.weight.shape:
            continue
        target.load_state_dict(layer.state_dict())
        copied.append(name)
    if not copied:
        raise WeightsError(
            f"no layer of {source.weights_name} ({source.net}, width {source.width:g}) fits net {net.net} of width "
            f"{net.width:g}: give `net={source.net}` and `width={source.width:g}`"
        )
    if "conv1_1" in copied:
        net.preprocessing = source.preprocessing
    return copied


@torch.no_grad()
def deepen(net: VGG, source: VGG, *, but: Sequence[str] = ()) -> list[str]:
    """Makes `net` compute what a trained shallower one does, and returns the names of the layers copied from it.

    All of the source's layers are copied, and each further convolution begins as the identity. That is exact, because
    the ReLU before it leaves no negative inputs. The deeper net begins as good as the shallower one; the random layers
    of `copy_layers` have to be learnt first. Chen, Goodfellow and Shlens, "Net2Net: Accelerating Learning via Knowledge
    Transfer" (2016); not in the paper. Layers `but` and a last layer for another number of classes stay random.

    Raises WeightsError where the source has a convolution that `net` lacks, or is of another width.
    """
    own, copied = table_layers(net), []
    for name, layer in table_layers(source).items():
        target = own.get(name)
        if target is not None and target.weight.shape == layer.weight.shape and name not in but:
            target.load_state_dict(layer.state_dict())
            copied.append(name)
        elif isinstance(layer, nn.Conv2d):
            raise WeightsError(
                f"{name} of {source.weights_name} ({source.net}, width {source.width:g}) fits no layer of net "
                f"{net.net} of width {net.width:g}: `init.scheme=identity` begins a deeper net of the same `width`"
            )
    for name, layer in own.items():
        if name not in copied and isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    net.preprocessing = source.preprocessing
    return copied


@torch.no_grad()
def begin_at_mean_box_(net: VGG, targets: Tensor) -> None:
    """Sets the biases of the last layer, (4 K,) or (4,), to the mean of some target boxes, the same for every class.

    targets (N, 4) are in units of the crop, as `boxes.to_targets` makes them; rows of NaN, for images without a box, do
    not count.
    A box regression then begins with the best answer that looks at no picture; from 0 its biases take many epochs to
    get there at the low rates that large activations ask for. Not in the paper.
    """
    bias = table_layers(net)["fc8"].bias
    assert bias is not None
    bias.copy_(targets.nanmean(dim=0).repeat(len(bias) // 4))


@torch.no_grad()
def standardise_(net: VGG, crops: Tensor, *, but: Sequence[str] = ()) -> VGG:
    """Scales and shifts every layer until each of its units has mean 0 and deviation 1 over some images, before ReLU.

    The class scores get a deviation of `FIRST_SCORES`, so that the first loss is at chance. A narrow net on few images
    then leaves chance sooner than with the paper's random weights.
    Krähenbühl et al., "Data-dependent Initializations of Convolutional Neural Networks" (2016); not in the paper.

    Args:
        net: with random weights; only their scale changes.
        crops: (N, 3, 224, 224), preprocessed.
        but: names of layers to leave unchanged, such as copied ones.
    """
    hooks = []
    for name, layer in table_layers(net).items():
        if name not in but:
            hooks.append(layer.register_forward_hook(_standardiser(FIRST_SCORES if name == "fc8" else 1.0)))
    training = net.training
    try:
        net.eval()(crops)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return net


def _standardiser(deviation: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that rescales a layer by its outputs and returns the outputs of the rescaled layer."""

    def hook(layer: nn.Module, _inputs: Any, outputs: Tensor) -> Tensor:
        over = [0, *range(2, outputs.ndim)]
        mean = outputs.mean(over)
        std = outputs.std(over) if outputs[:, 0].numel() > 1 else torch.zeros_like(mean)
        # Clamp tiny deviations so that near-constant units do not amplify noise.
        largest = float(std.max())
        std = (std.clamp_min(1e-3 * largest) if largest > 0 else torch.ones_like(std)) / deviation
        layer.weight.div_(std.view(-1, *[1] * (layer.weight.ndim - 1)))  # type: ignore[operator]
        layer.bias.sub_(mean).div_(std)  # type: ignore[operator]
        shape = (1, -1, *[1] * (outputs.ndim - 2))
        return (outputs - mean.view(shape)) / std.view(shape)

    return hook
