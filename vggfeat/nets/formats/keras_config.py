"""What the configuration of a whole Keras model says that it computes, in the words of `NetSpec.steps`.

Weights alone (`.weights.h5`) have none. Layers that do nothing outside of training are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

IDLE = {"InputLayer", "Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"}
"""Layers that change no value outside of training; so do those that begin with RANDOM."""
RANDOM = "Random"

MODELS = {"Functional", "Model", "Sequential"}

WORDS = {"relu": "Relu", "softmax": "Softmax", "sigmoid": "Sigmoid", "ReLU": "Relu", "Flatten": "Flatten"}


def steps_of(config: str | bytes) -> tuple[str, ...]:
    """The steps of a model's configuration (JSON), in its order; () for one that cannot be read."""
    try:
        return tuple(_steps(json.loads(config)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # of no known form, or damaged
        return ()


def _steps(layer: Mapping[str, Any], padded: bool = False) -> Iterator[str]:
    """Of a layer, or a model's; padded: the layer before it has padded its input."""
    kind, config = str(layer["class_name"]), layer["config"]
    if kind in MODELS:
        for one in config if isinstance(config, list) else config["layers"]:
            yield from _steps(one, padded)
            padded = one["class_name"] == "ZeroPadding2D"
        return
    if kind in IDLE or kind.startswith(RANDOM):
        return
    if kind == "Conv2D":
        plain = all(_all(config, setting, 1) for setting in ("strides", "dilation_rate", "groups"))
        keeps = padded or config.get("padding") == "same" or _all(config, "kernel_size", 1)
        yield (
            "Conv" if plain and keeps else "Conv with strides, dilation or groups" if keeps else "Conv without padding"
        )
    elif kind == "MaxPooling2D":
        sides = config["pool_size"], config.get("strides") or config["pool_size"]
        kernel, strides = ("x".join(map(str, side)) for side in sides)
        yield f"MaxPool {kernel} of stride {strides}"
    elif kind == "Dense":
        yield "Gemm"
    elif kind == "ZeroPadding2D":  # before a convolution without padding, as in the first copies of VGG nets
        if not _all(config, "padding", 1):
            yield kind
    elif kind not in ("Activation",):
        yield WORDS.get(kind, kind)
    activation = config.get("activation")
    name = activation if isinstance(activation, str) else "linear" if activation is None else "another activation"
    if name != "linear":
        yield WORDS.get(name, name)


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
