"""A net as training runs it: frozen layers first, then trained ones, with dropout masks from outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vggfeat.nets.catalog import INPUT_SIDE
from vggfeat.nets.inference_form import has_fast_convolutions, inference_form
from vggfeat.nets.networks import VGG
from vggfeat.training.initial import table_layers
from vggfeat.training.recipe import first_trained


class TrainingForm(nn.Module):
    """A net's classifier form: (inputs, masks) -> class scores.

    Args:
        net: its layers before the first trained one are frozen in place.
        dropout: probability of dropping a unit.
        trainable: the recipe's `sgd.trainable`.
    """

    def __init__(self, net: VGG, dropout: float, trainable: str) -> None:
        super().__init__()
        self.net, self.kept = net, 1.0 - dropout
        self._steps = (*net.features, *net.classifier)
        self._maps = len(net.features)  # the steps on maps; the others take vectors
        self._drops = [place for place, step in enumerate(self._steps) if isinstance(step, nn.Dropout)]
        first = self._steps.index(table_layers(net)[first_trained(trainable, net.spec)])
        self.begin = first - 1 if first - 1 in self._drops else first
        """Number of steps (layers, ReLUs, poolings) of the frozen part; dropout belongs to the trained one."""
        self._inference = (*inference_form(net.features), *net.classifier)
        """The same steps, for the frozen part on a CPU."""
        for place, step in enumerate(self._steps):
            step.requires_grad_(place >= self.begin)

    @property
    def vectors(self) -> bool:
        """Whether the trained part has fully-connected layers alone."""
        return self.begin >= self._maps

    def forward(self, inputs: Tensor, masks: Sequence[Tensor] | None, computed: bool = False) -> Tensor:
        """(N, 3, 224, 224) preprocessed -> (N, classes).

        Args:
            inputs: crops, or with `computed` what `frozen` gave for them.
            masks: (N, hidden) for each of the two dropouts, True where a unit is kept; kept activations are divided by
                the probability of keeping, so that evaluation needs no factor. None: no dropout.
        """
        x = inputs if computed else self.frozen(inputs)
        return self._through(x, self._steps, range(self.begin, len(self._steps)), masks)

    def frozen(self, crops: Tensor) -> Tensor:
        """The frozen part: (N, 3, 224, 224) -> maps (N, C, h, w) or vectors (N, D)."""
        fast = crops.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and has_fast_convolutions()
        with torch.no_grad():
            return self._through(crops, self._inference if fast else self._steps, range(self.begin), None)

    def frozen_shape(self) -> tuple[int, ...]:
        """Shape of the frozen part's output for one crop."""
        device = next(self.net.parameters()).device
        crop = torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE, dtype=torch.float32, device=device)
        return tuple(self.frozen(crop).shape[1:])

    def _through(self, x: Tensor, steps: Sequence[nn.Module], places: range, masks: Sequence[Tensor] | None) -> Tensor:
        for place in places:
            if place == self._maps:
                x = x.flatten(1)
            if place not in self._drops:
                x = steps[place](x)
            elif masks is not None:
                x = x * (masks[self._drops.index(place)].to(x.dtype) / self.kept)
        return x
