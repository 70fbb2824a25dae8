"""What the configuration of a whole Keras model says that it computes, in the words of `NetSpec.steps`.

Weights alone (`.weights.h5`) have none. Layers that do nothing outside of training are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

IDLE = {"InputLayer", "Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"}
"""Layers that change no value outside of training, like those of augmentation."""
AUGMENTATION = "Random"
"""How the names of layers for augmentation begin: RandomFlip, RandomCrop, .."""

MODELS = {"Functional", "Model", "Sequential"}

WORDS = {"relu": "Relu", "softmax": "Softmax", "sigmoid": "Sigmoid", "ReLU": "Relu", "Flatten": "Flatten"}


def steps_of(config: str | bytes) -> tuple[str, ...]:
    """The steps of a model's configuration (JSON), in its order; () for one that cannot be read."""
    try:
        return tuple(_steps(json.loads(config)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # of no known form, or damaged
        return ()


def _steps(layer: Mapping[str, Any], padded: bool = False) -> Iterator[str]:
    """The steps of a layer or of a nested model; padded: whether the layer before it was a padding of 1."""
    kind, config = str(layer["class_name"]), layer["config"]
    if kind in MODELS:
        for one in config if isinstance(config, list) else config["layers"]:
            yield from _steps(one, padded)
            padded = one["class_name"] == "ZeroPadding2D"
        return
    if kind in IDLE or kind.startswith(AUGMENTATION):
        return
    if kind == "Conv2D":
        yield _convolution(config, padded)
    elif kind == "MaxPooling2D":
        sides = config["pool_size"], config.get("strides") or config["pool_size"]
        kernel, strides = ("x".join(map(str, side)) for side in sides)
        yield f"MaxPool {kernel} of stride {strides}"
    elif kind == "Dense":
        yield "Gemm"
    elif kind == "ZeroPadding2D":  # before a convolution without padding, as in the first copies of VGG nets
        if not _all(config, "padding", 1):
            yield kind
    elif kind != "Activation":
        yield WORDS.get(kind, kind)
    activation = config.get("activation")
    name = activation if isinstance(activation, str) else "linear" if activation is None else "another activation"
    if name != "linear":
        yield WORDS.get(name, name)


def _convolution(config: Mapping[str, Any], padded: bool) -> str:
    """A convolution; only one of stride 1 that keeps the size of its map is plainly "Conv"."""
    if not (padded or config.get("padding") == "same" or _all(config, "kernel_size", 1)):
        return "Conv without padding"
    plain = all(_all(config, setting, 1) for setting in ("strides", "dilation_rate", "groups"))
    return "Conv" if plain else "Conv with strides, dilation or groups"


def _all(config: Mapping[str, Any], setting: str, value: int) -> bool:
    """Whether all numbers of a setting, one or nested pairs, are this one."""
    rest = [config.get(setting, value)]
    while rest:
        one = rest.pop()
        if isinstance(one, list | tuple):
            rest += one
        elif one != value:
            return False
    return True
