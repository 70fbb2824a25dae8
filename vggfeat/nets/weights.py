"""A name or a file -> a net of Table 1 with its weights."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vggfeat.errors import PreprocessingError, UsageError
from vggfeat.nets.building import build
from vggfeat.nets.cache import published_file
from vggfeat.nets.catalog import NUM_CLASSES, WEIGHTS_NAMES, net_spec
from vggfeat.nets.contents import Contents
from vggfeat.nets.layers import check_layers
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.preprocessing import Preprocessing, preprocessing_of
from vggfeat.nets.reading import read_weights
from vggfeat.nets.recognise import decided, recognised
from vggfeat.nets.sources import check_published, existing, named_net, paired
from vggfeat.nets.wording import net_words
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Fetching, checked_progress, fetching_bar
from vggfeat.system.devices import resolve_device, resolve_precision
from vggfeat.system.hashes import digests_ahead
from vggfeat.system.numbers import number_of
from vggfeat.system.values import real, several, whole

log = logging.getLogger(__name__)

NAMES = WEIGHTS_NAMES


@with_checked_arguments
def load_net(
    net: str | None = None,
    weights: str | os.PathLike[str] | None = "published",
    *,
    width: float | None = None,
    num_classes: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    preprocessing: str | os.PathLike[str] | Preprocessing | None = None,
    layers: str | Sequence[str] = (),
    seed: int = 0,
    offline: bool | None = None,
    progress: Fetching | bool | None = True,
) -> VGG:
    """A net of Table 1 with its weights, in eval mode.

    Args:
        net: a name of Table 1, or vgg11, vgg13, vgg16, vgg19 for A, B, D, E. None is the file's net, or "D" for
            weights that are not a file.
        weights: "published", "oxford", "oxford-keras", "torchvision", a file, or None or "none" for random ones (Glorot
            and Bengio, Sect. 3.1). A file is a vggfeat checkpoint, a state dict of torchvision, timm or jcjohnson
            (.pth, .safetensors), Keras' .h5 or .keras, a .caffemodel, .onnx, MatConvNet's .mat, .npz or .npy; without
            fully-connected layers it gives a net without them.
        width: factor on a random net's channels, 1 by default; a file knows its own.
        num_classes: outputs of a random net, 1000 by default; a file knows its own.
        device: a name of torch's; None is the best one here.
        precision: "auto", "fp32", "tf32", "bf16", "fp16" or "int8": kept as the net's `precision`, resolved.
        preprocessing: what the weights expect of an image: "oxford", "oxford-rgb", "torchvision",
            "torchvision-features", "vgg-face", "vgg-face-rgb", "places205", a TOML file with the fields of
            `vggfeat.nets.preprocessing.Preprocessing`, or one such object. None is what the file, its values or its
            layout say.
        layers: one or several names of layers that will be asked for, such as "conv5_3" or "fc7"; wrong ones are
            refused before anything is fetched or read.
        seed: of random weights.
        offline: forbids fetching; None asks VGGFEAT_OFFLINE.
        progress: while weights are fetched: True, a bar on terminals and in notebooks; False, none; or a function,
            called with (bytes done, bytes in all or None).

    Returns:
        The net; its `weights_name`, `weights_sha256` and `preprocessing` say what its values are and expect.

    Raises:
        UsageError: an unknown name, or settings that contradict the file.
        WeightsError: a file that is not a weights file, is damaged, holds no net of Table 1, or does not tell its
            preprocessing.
        DownloadError: published weights that are not in the cache and cannot be fetched.
    """
    if net is not None:
        named_net(net)
        net = os.fspath(net)
    layers = several("layers", layers)
    progress = checked_progress(progress)
    seed = whole("seed", seed)
    width = None if width is None else real("width", width)
    num_classes = None if num_classes is None else whole("num_classes", num_classes)
    place = resolve_device(device)
    number_format = resolve_precision(precision, place)
    chosen = None if preprocessing is None else preprocessing_of(preprocessing)
    if weights is None or weights == "none":
        check_layers(net_spec(net or "D"), layers)
        model = _random(net or "D", width, num_classes, seed)
        model.preprocessing = chosen or model.preprocessing
    elif weights in NAMES:
        check_published(net or "D", str(weights), width, num_classes, chosen)
        check_layers(net_spec(net or "D"), layers)
        with fetching_bar(progress) as told:
            file = published_file(net or "D", str(weights), offline=offline, progress=told)
        model = build(str(file.path), read_weights(file.path), file.row.net)
        model.preprocessing = file.row.preprocessing
        model.came_from(file.row.source, file.sha256)
    else:
        if net is not None:
            check_layers(net_spec(net), layers)
        model = _from_file(existing(weights), net, chosen)
        _check_agreement(model, str(weights), width, num_classes)
    for layer in layers:
        model.need(layer)
    model.precision = number_format
    words = net_words(model.net, model.weights_name, model.width)
    log.info("net %s, %s, %s", words, place, number_format)
    return model.eval().to(place)


def load_nets(
    net: str | VGG | Sequence[str | VGG] | None,
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None] | None,
    *,
    preprocessing: Any = None,
    **options: Any,
) -> list[VGG]:
    """Several nets at once, each with its weights.

    One name of weights and one preprocessing serve all nets; without `net` each file decides its own. Loaded nets stay
    as they are; `options` are load_net's.
    """
    nets, files = paired(net, weights)
    expected: list[Any] = list(preprocessing) if isinstance(preprocessing, list | tuple) else [preprocessing]
    if len(expected) <= 1:
        expected = (expected or [None]) * len(nets)
    if len(expected) != len(nets):
        raise UsageError(
            f"{number_of(len(nets), 'net')} and {len(expected)} times `preprocessing`: give one for all nets, "
            "or one each"
        )
    return [
        one if isinstance(one, VGG) else load_net(one, its, preprocessing=how, **options)
        for one, its, how in zip(nets, files, expected, strict=True)
    ]


def open_weights(path: Path) -> tuple[VGG, bool, bool]:
    """A file's net, whether vggfeat wrote the file, and whether the file tells the preprocessing, for `info`."""
    model, content = _unprepared(path, None)
    try:
        model.preprocessing = decided(str(path), content, model.origin, None)
    except PreprocessingError:
        return model, False, False
    return model, content.net is not None, True


def _from_file(path: Path, net: str | None, chosen: Preprocessing | None) -> VGG:
    model, content = _unprepared(path, net)
    model.preprocessing = decided(str(path), content, model.origin, chosen)
    return model


def _unprepared(path: Path, net: str | None) -> tuple[VGG, Contents]:
    """A file's net, its preprocessing still to be set, and what the file says."""
    hashed = digests_ahead(path, "sha256")
    content = read_weights(path)
    model = build(str(path), content, net)
    sha256 = hashed.result()["sha256"]
    model.came_from(path.name, sha256)
    model.origin = recognised(path, content, sha256)
    return model, content


def _random(net: str, width: float | None, num_classes: int | None, seed: int) -> VGG:
    width = 1.0 if width is None else width
    num_classes = NUM_CLASSES if num_classes is None else num_classes
    with torch.device("meta"):  # torch's own initial values would cost seconds and be overwritten
        model = VGG(net, width=width, num_classes=num_classes)
    # As Module.to_empty does, which imports sympy on its way and so takes seconds.
    model.load_state_dict(
        {
            name: torch.empty(value.shape, dtype=torch.float32, device="cpu")
            for name, value in model.state_dict().items()
        },
        assign=True,
    )
    return glorot_(model, seed)


def _check_agreement(model: VGG, path: str, width: float | None, num_classes: int | None) -> None:
    """Raises UsageError for a width or a number of classes that was asked for and that the file does not have."""
    if width is not None and not math.isclose(width, model.width, rel_tol=1e-3):
        raise UsageError(f"{path}: a net of width {model.width:g}, not {width:g}; a file knows its own `width`")
    if num_classes not in (None, model.num_classes):
        raise UsageError(f"{path}: a net of {number_of(model.num_classes, 'class')}, not {num_classes}")
