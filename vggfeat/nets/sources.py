"""Which weights a name means, checked without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggfeat.errors import UsageError, WeightsError, nearest
from vggfeat.nets.cache import check_available, random_by
from vggfeat.nets.catalog import NUM_CLASSES, WEIGHTS_NAMES, NetSpec, net_spec, weights_rows
from vggfeat.nets.preprocessing import Preprocessing
from vggfeat.system.files import exists, folder_error, is_file
from vggfeat.system.numbers import number_of

SUFFIXES = (".pt", ".pth", ".safetensors", ".h5", ".keras", ".caffemodel", ".onnx", ".mat", ".npz", ".npy")
"""How weights files are usually named."""


def named_net(name: str | os.PathLike[str]) -> NetSpec:
    """The net of that name, where a file may be given as `weights`. Raises UsageError, which says so of a file."""
    if not isinstance(name, str | os.PathLike):
        raise not_a_net(name)
    name = os.fspath(name)
    try:
        return net_spec(name)
    except UsageError:
        if Path(name).suffix.lower() not in SUFFIXES and not is_file(name):
            raise
    raise UsageError(f"no net {name!r}; a file is given as `weights={name!r}`")


def not_a_net(given: object) -> UsageError:
    """The error for an object that is not a net, such as a model of torchvision's."""
    kind = type(given)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return UsageError(f"{name} is not a net: give a name of Table 1, such as D, or what load_net gave")


def existing(weights: str | os.PathLike[str], names: Sequence[str] = WEIGHTS_NAMES) -> Path:
    """The path of a weights file. Raises UsageError if there is no such file, WeightsError for a folder or a device.

    `names`: what may be given besides a file, for the message.
    """
    if not isinstance(weights, str | os.PathLike):
        raise UsageError(f"`weights` {weights!r} is neither a name nor a path")
    path = Path(weights)
    if is_file(path):
        return path
    if os.path.isdir(path):  # noqa: PTH112 - no error for a name that no system allows
        raise folder_error(WeightsError, path, SUFFIXES, "weights files", advice="")
    if exists(path):
        raise WeightsError(f"{path}: not a regular file; expected a weights file")
    near = nearest(str(weights), names)
    hint = f"; did you mean {near!r}?" if near else ""
    raise UsageError(f"no weights {str(weights)!r}: no such file, and not one of {', '.join(names)}{hint}")


def check_weights(
    net: str | None,
    weights: str | os.PathLike[str] | None,
    width: float | None,
    offline: bool | None = None,
    *,
    chosen: Preprocessing | None = None,
    setting: str = "weights",
) -> None:
    """Raises the error of `load_net` for weights that do not exist, or for a width that published ones do not have.

    Args:
        chosen: a preprocessing that published weights must have.
        setting: the parameter that names the weights; unless it is `weights`, random ones go without it.
    """
    if weights is None or weights == "none":
        return
    if weights in WEIGHTS_NAMES:
        check_published(net or "D", str(weights), width, chosen=chosen, setting=setting)
        check_available(net or "D", str(weights), offline, setting)
    else:
        existing(weights, [name for name in WEIGHTS_NAMES if name != "none" or setting == "weights"])


def check_published(
    net: str,
    weights: str,
    width: float | None,
    num_classes: int | None = None,
    chosen: Preprocessing | None = None,
    setting: str = "weights",
) -> None:
    """Raises UsageError for a width, a number of classes or a preprocessing that the published weights do not have."""
    given = f"`{setting}={weights}`"
    for row in weights_rows(net, weights):
        if chosen not in (None, row.preprocessing):
            raise UsageError(f"{given}: {row.source}'s weights of net {row.net} have their own preprocessing")
    if width not in (None, 1.0):
        raise UsageError(f"{given}: published weights have width 1, not {width:g}; {random_by(setting)}")
    if num_classes not in (None, NUM_CLASSES):
        raise UsageError(f"{given}: published weights score {NUM_CLASSES} classes, not {num_classes}")


def paired(net: Any, weights: Any) -> tuple[list[Any], list[Any]]:
    """Nets and weights, one or a list each, as two lists of one length.

    One name of weights serves all nets; without `net` each file decides its own. Raises UsageError for lists that do
    not go together.
    """
    nets: list[Any] = list(net) if isinstance(net, list | tuple) else [net]
    files: list[Any] = list(weights) if isinstance(weights, list | tuple) else [weights]
    if len(files) == 1:
        files *= len(nets)
    elif net is None:
        nets = [None] * len(files)
    if len(nets) != len(files):
        raise UsageError(
            f"{number_of(len(nets), 'net')} and {len(files)} weights: give one `weights` for all nets, or one each"
        )
    return nets, files
