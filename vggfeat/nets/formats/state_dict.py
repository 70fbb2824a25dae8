"""Reads state dicts with torchvision's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggfeat.errors import WeightsError
from vggfeat.nets.contents import Layer

_PARAMETER = re.compile(r"(?:module\.)?(features|classifier)\.(\d{1,3})\.(weight|bias)")


def unwrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The state dict inside a training script's dict, or the dict itself."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def read_state_dict(path: Path, state: Mapping[Any, Any]) -> list[Layer]:
    """The layers of a state dict with the names `features.N` and `classifier.N`, after DataParallel's prefix too.

    Raises WeightsError for other names, for values that are not floating-point tensors, and for half a layer.
    """
    parts: dict[tuple[bool, int], dict[str, Tensor]] = {}
    for key, value in state.items():
        match = _PARAMETER.fullmatch(str(key))
        if match is None:
            why = "; nets with batch normalisation are not Table 1's" if "running_mean" in str(key) else ""
            raise WeightsError(f"{path}: {str(key)!r} is no parameter of torchvision's VGG nets{why}")
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not (plain and value.is_floating_point()):
            raise WeightsError(f"{path}: {key} is no plain tensor of floating-point numbers")
        parts.setdefault((match[1] == "classifier", int(match[2])), {})[match[3]] = value
    layers = []
    for (in_classifier, index), part in sorted(parts.items()):
        name = f"{'classifier' if in_classifier else 'features'}.{index}"
        if len(part) != 2:
            raise WeightsError(f"{path}: {name} has a {next(iter(part))} alone; every layer has a weight and a bias")
        layers.append(Layer(name, part["weight"], part["bias"]))
    return layers
