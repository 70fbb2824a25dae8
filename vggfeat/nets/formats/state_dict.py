"""Reads state dicts with the names of torchvision, timm, jcjohnson, MatConvNet's ports and bare trunks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggfeat.errors import WeightsError
from vggfeat.nets.contents import Contents, Layer
from vggfeat.nets.known import Layout

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "network", "weights", "params")
"""Keys under which training scripts, and Lightning, keep the state dict."""

MOST_WRAPPERS = 100

_LAYER = re.compile(
    r"(?P<features>features\.\d{1,3})|(?P<classifier>classifier\.\d{1,3})|(?P<trunk>\d{1,3})"
    r"|(?P<timm>pre_logits\.fc[12]|head\.fc)|(?P<mcn>conv\d_\d|fc[678])"
)
_PARAMETER = re.compile(rf"(?:.*?\.)??(?P<layer>{_LAYER.pattern})\.(?:weight|bias)")
_HEADS: dict[tuple[int, ...], Layout] = {(0, 3, 6): "torchvision", (1, 4, 6): "jcjohnson"}
"""Where the fully-connected layers stand in `classifier`; jcjohnson's begins with a module that flattens."""


def unwrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The state dict inside a training script's dict, or the dict itself."""
    for _ in range(MOST_WRAPPERS):  # a dict may hold itself
        inside = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inside is None:
            break
        content = inside
    return content


def read_state_dict(path: Path, state: Mapping[Any, Any]) -> Contents:
    """The layers of a state dict, without the prefix that the names share (`module.`, `model.`, `net.`, ..).

    Known names are torchvision's `features.N` and `classifier.N`, timm's `pre_logits.fc1`, `pre_logits.fc2` and
    `head.fc`, `conv1_1` to `fc8`, and `N` alone for a bare trunk.

    Raises WeightsError for other names, for values that are not floating-point tensors, and for half a layer.
    """
    prefix = _usual_prefix([str(key) for key in state])
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        layer, _, parameter = str(key).removeprefix(prefix).rpartition(".")
        known = str(key).startswith(prefix) and parameter in ("weight", "bias") and _LAYER.fullmatch(layer)
        if not known:
            why = "; nets with batch normalisation are not Table 1's" if "running_mean" in str(key) else ""
            raise WeightsError(f"{path}: {str(key)!r} is not a parameter of torchvision's or timm's VGG nets{why}")
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not (plain and value.is_floating_point()):
            raise WeightsError(f"{path}: {key} is not a plain tensor of floating-point numbers")
        parts.setdefault(layer, {})[parameter] = value
    layers = []
    for name in sorted(parts, key=_place):
        part = parts[name]
        if len(part) != 2:
            raise WeightsError(f"{path}: {name} has a {next(iter(part))} alone; every layer has a weight and a bias")
        layers.append(Layer(name, part["weight"], part["bias"]))
    return Contents(layers, _layout(parts))


def _usual_prefix(names: list[str]) -> str:
    """What stands before the names of layers, mostly: `module.`, `model.backbone.`, .. or nothing."""
    found = Counter(name[: match.start("layer")] for name in names if (match := _PARAMETER.fullmatch(name)))
    return found.most_common(1)[0][0] if found else ""


def _place(name: str) -> tuple[int, list[int | str]]:
    """Sorts convolutions before fully-connected layers, and numbers by value."""
    connected = name.startswith(("classifier", "pre_logits", "head", "fc"))
    words: list[int | str] = [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)]
    return connected + name.startswith("head"), words


def _layout(names: Iterable[str]) -> Layout:
    kinds = {match.lastgroup for name in names if (match := _LAYER.fullmatch(name))}
    if kinds == {"features", "classifier"}:
        head = tuple(sorted(int(name[len("classifier.") :]) for name in names if name.startswith("classifier")))
        return _HEADS.get(head, "other")
    return "torchvision" if kinds == {"features", "timm"} else "mcn" if kinds == {"mcn"} else "other"
