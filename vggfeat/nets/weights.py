"""A name or a file -> a net: the published weights, and a reader for each format that weights come in.

Whatever the format, a file is read into its layers in order, `Layers`; their shapes say which net of Table 1
it is, at which width and for how many classes. No file is trusted: nothing in it is run, and a length that it
claims is checked against its size before memory is set aside.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vggfeat.errors import UsageError, WeightsError
from vggfeat.nets.cache import published_file
from vggfeat.nets.catalog import (
    FC_CHANNELS,
    NETS,
    NUM_CLASSES,
    OXFORD,
    SOURCES,
    TORCHVISION,
    NetSpec,
    Preprocessing,
    net_spec,
    scaled,
)
from vggfeat.nets.networks import CHECKPOINT_FORMAT, CHECKPOINT_VERSION, POOLED_SIDE, VGG, glorot_, weighted_layers
from vggfeat.system.devices import resolve_device, resolve_precision
from vggfeat.system.fetch import Progress, digests

log = logging.getLogger(__name__)

NAMES = ("published", *SOURCES, "none")
"""What `weights` may be besides a file."""

MOST_WIDTH = 1000.0
"""No machine holds a net of this width factor."""


def load_net(
    net: str | None = None,
    weights: str | os.PathLike[str] | None = "published",
    *,
    width: float = 1.0,
    num_classes: int = NUM_CLASSES,
    device: str | torch.device | None = None,
    precision: str = "auto",
    seed: int = 0,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> VGG:
    """A net of Table 1 with its weights, in eval mode.

    Args:
        net: a name of Table 1. None is what the file holds, or "D" for weights that are no file.
        weights: "published", "oxford", "oxford-keras", "torchvision", a file (a vggfeat checkpoint, torchvision's
            .pth, Keras' .h5, a .caffemodel), or None or "none" for random ones (Glorot and Bengio, Sect. 3.1).
        width: factor on a random net's channels; a file's own width needs no naming.
        num_classes: outputs of a random net; a file's own number needs no naming.
        device: a name of torch's; None is the best one here.
        precision: "auto", "fp32", "tf32", "bf16" or "fp16": kept as the net's `precision`, resolved.
        seed: of random weights.
        offline: forbids fetching; None asks VGGFEAT_OFFLINE.
        progress: called with (bytes done, bytes in all or None) while weights are fetched.

    Returns:
        The net; its `weights_name`, `weights_sha256` and `preprocessing` say what its values are and expect.

    Raises:
        UsageError: an unknown name, or settings that contradict the file.
        WeightsError: a file that is no weights file, is damaged, or holds no net of Table 1.
        DownloadError: published weights that are not in the cache and cannot be fetched.
    """
    place = resolve_device(device)
    number_format = resolve_precision(precision, place)
    if weights is None or weights == "none":
        model = _random(net or "D", width, num_classes, seed)
    else:
        if weights in NAMES:
            file = published_file(net or "D", str(weights), offline=offline, progress=progress)
            path, name, sha256, net = file.path, file.row.source, file.sha256, file.row.net
        else:
            path = _existing(weights)
            name, sha256 = path.name, digests(path, "sha256")["sha256"]
        model = _built(path, read_weights(path), net)
        model.weights_name, model.weights_sha256 = name, sha256
        _agree(model, path, width, num_classes)
    model.precision = number_format
    log.info("net %s (width %g), weights %s, %s, %s", model.net, model.width, model.weights_name, place, number_format)
    return model.eval().to(place)


def load_nets(
    net: str | VGG | Sequence[str | VGG] | None,
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None] | None,
    **options: Any,
) -> list[VGG]:
    """Several nets at once, each with its weights: one name of weights serves all nets, and one net may be left to its
    file. Nets that are loaded already stay as they are; `options` are load_net's.
    """
    nets: list[Any] = list(net) if isinstance(net, list | tuple) else [net]
    files: list[Any] = list(weights) if isinstance(weights, list | tuple) else [weights]
    if len(files) == 1:
        files *= len(nets)
    elif net is None:
        nets = [None] * len(files)
    if len(nets) != len(files):
        raise UsageError(f"{len(nets)} nets and {len(files)} weights: give one --weights for all nets, or one each")
    pairs = zip(nets, files, strict=True)
    return [one if isinstance(one, VGG) else load_net(one, its, **options) for one, its in pairs]


def _random(net: str, width: float, num_classes: int, seed: int) -> VGG:
    with torch.device("meta"):  # torch's own initial values would cost seconds and be overwritten
        model = VGG(net, width=width, num_classes=num_classes)
    # As Module.to_empty does, which imports sympy on its way and so takes seconds.
    model.load_state_dict({name: torch.empty(value.shape) for name, value in model.state_dict().items()}, assign=True)
    return glorot_(model, seed)


def _existing(weights: str | os.PathLike[str]) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    if path.exists():
        raise WeightsError(f"{path}: a weights file is needed here, and this is none")
    near = difflib.get_close_matches(str(weights).casefold(), NAMES, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"no weights {str(weights)!r}: no such file, and no name of {', '.join(NAMES)}{hint}")


def _agree(model: VGG, path: Path, width: float, num_classes: int) -> None:
    """Refuses a width or a number of classes that was asked for and that the file does not have."""
    if width != 1.0 and not math.isclose(width, model.width, rel_tol=1e-3):
        raise UsageError(f"{path}: a net of width {model.width:g}, not {width:g}; a file's width needs no naming")
    if num_classes not in (NUM_CLASSES, model.num_classes):
        raise UsageError(f"{path}: a net of {model.num_classes} classes, not {num_classes}")


class Layer(NamedTuple):
    """A layer's values as torch lays them out."""

    name: str
    """What the file calls it."""
    weight: Tensor
    """(out, in, k, k) of a convolution, (out, in) of a fully-connected layer; the first such reads C, H, W order."""
    bias: Tensor
    """(out,)."""


@dataclass(frozen=True)
class Layers:
    """What a weights file holds."""

    layers: list[Layer]
    """In the order of the net."""
    preprocessing: Preprocessing
    net: str | None = None
    """Its name in Table 1, where the file says it."""
    width: float | None = None
    class_names: tuple[str, ...] = ()
    training_record: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | os.PathLike[str]) -> Layers:
    """The layers of a weights file of any format that vggfeat reads; the content tells which.

    Raises WeightsError with the reason.
    """
    path = Path(path)
    with path.open("rb") as stream:
        start = stream.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        from vggfeat.nets.formats.keras_h5 import read_keras

        return Layers([Layer(*layer) for layer in read_keras(path)], OXFORD)
    # torch's zip format, and pickles: torch's own older format, or a stranger's that gets its refusal there.
    if start.startswith((b"PK\x03\x04", b"\x80")) or path.suffix in (".pth", ".pt"):
        return _read_torch(path)
    if path.suffix == ".caffemodel" or start[:1] in (b"\x0a", b"\x12", b"\xa2"):  # fields name, layers, layer
        from vggfeat.nets.formats.caffemodel import read_caffemodel

        return Layers([Layer(*layer) for layer in read_caffemodel(path)], OXFORD)
    raise WeightsError(
        f"{path}: no weights file that vggfeat reads "
        "(a vggfeat checkpoint, torchvision's .pth, Keras' .h5 or a .caffemodel)"
    )


# --- torch's files ---


def _read_torch(path: Path) -> Layers:
    """A vggfeat checkpoint, or a state dict with torchvision's names, bare or inside a training script's dict."""
    content = _unpickled(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, no state dict")
    if content.get("format") == CHECKPOINT_FORMAT:
        return _checkpoint(path, content)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return Layers(_named_layers(path, content), TORCHVISION)


def _unpickled(path: Path) -> Any:
    """The file's content, of which torch builds tensors and plain data alone (weights_only)."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                claimed = sum(entry.file_size for entry in archive.infolist())
            if claimed > path.stat().st_size:  # torch stores its tensors uncompressed
                raise WeightsError(f"{path}: claims {claimed} bytes of content, more than the file has")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({asked[1]})" if asked else ""
        raise WeightsError(
            f"{path}: not read, because its pickle asks for more than tensors and plain data{what} and so could run "
            "code; save the state dict alone with torch.save(net.state_dict(), ...)"
        ) from error
    except WeightsError:
        raise
    except Exception as error:  # a damaged file makes torch and pickle raise almost anything
        raise WeightsError(f"{path}: no readable torch file, damaged or cut short ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


_PARAMETER = re.compile(r"(?:module\.)?(features|classifier)\.(\d{1,3})\.(weight|bias)")


def _named_layers(path: Path, state: Mapping[Any, Any]) -> list[Layer]:
    """The layers of a state dict with torchvision's names `features.N` and `classifier.N`, DataParallel's too."""
    parts: dict[tuple[bool, int], dict[str, Tensor]] = {}
    claimed = 0
    for key, value in state.items():
        match = _PARAMETER.fullmatch(str(key))
        if match is None:
            why = "; nets with batch normalisation are not Table 1's" if "running_mean" in str(key) else ""
            raise WeightsError(f"{path}: {str(key)!r} is no parameter of torchvision's VGG nets{why}")
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not (plain and value.is_floating_point()):
            raise WeightsError(f"{path}: {key} is no plain tensor of floating-point numbers")
        claimed += value.numel() * value.element_size()
        parts.setdefault((match[1] == "classifier", int(match[2])), {})[match[3]] = value
    if claimed > path.stat().st_size:  # tensors that repeat one number for ever by a stride of zero
        raise WeightsError(f"{path}: claims {claimed} bytes of tensors, more than the file has")
    layers = []
    for (in_classifier, index), part in sorted(parts.items()):
        name = f"{'classifier' if in_classifier else 'features'}.{index}"
        if len(part) != 2:
            raise WeightsError(f"{path}: {name} has a {next(iter(part))} alone; every layer has a weight and a bias")
        layers.append(Layer(name, part["weight"], part["bias"]))
    return layers


def _checkpoint(path: Path, content: Mapping[Any, Any]) -> Layers:
    """What `VGG.save` wrote."""
    version = content.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise WeightsError(f"{path}: a vggfeat checkpoint of no known version ({version!r})")
    if version > CHECKPOINT_VERSION:
        raise WeightsError(
            f"{path}: written by a newer vggfeat (checkpoint format {version}, this one reads {CHECKPOINT_VERSION}): "
            "update vggfeat"
        )
    try:
        return Layers(
            _named_layers(path, content["state_dict"]),
            _preprocessing(content["preprocessing"]),
            net_spec(content["net"]).name,
            float(content["width"]),
            tuple(str(name) for name in content["class_names"]),
            dict(content["training"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise WeightsError(f"{path}: a damaged vggfeat checkpoint ({type(error).__name__}: {error})") from error


def _preprocessing(record: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that a checkpoint records. Raises ValueError, TypeError or KeyError where it is none."""
    mean, std = (tuple(float(value) for value in record[key]) for key in ("mean", "std"))
    scale = float(record["scale"])
    sound = (
        len(mean) == len(std) == 3
        and all(math.isfinite(value) for value in (*mean, *std, scale))
        and all(std)
        and record["channels"] in ("RGB", "BGR")
        and record["filter"] in ("bilinear", "bicubic")
        and set(record) == {"channels", "scale", "mean", "std", "filter"}
    )
    if not sound:
        raise ValueError(f"preprocessing {dict(record)}")
    return Preprocessing(record["channels"], scale, mean, std, record["filter"])  # type: ignore[arg-type]


# --- layers -> net ---


def _built(path: Path, content: Layers, net: str | None) -> VGG:
    """The net that the layers are. Raises WeightsError where they are none, UsageError where they are another."""
    layers = content.layers
    if len(layers) < 4 or any(layer.weight.ndim != 2 for layer in layers[-3:]):
        raise WeightsError(
            f"{path}: has no classifier of three fully-connected layers (a features-only file?), so no penultimate "
            "layer to take descriptors from"
        )
    for layer in layers[:-3]:
        if layer.weight.ndim != 4:
            raise WeightsError(f"{path}: {layer.name} of shape {tuple(layer.weight.shape)} is no convolution")
    spec = _identified(path, content, net)
    shapes = [tuple(layer.weight.shape) for layer in layers]
    width = content.width if content.width is not None else _width(spec, shapes)
    if width is None or not 0 < width < MOST_WIDTH or shapes != _shapes(spec, width, shapes[-1][0]):
        raise WeightsError(f"{path}: its layers' shapes are not those of net {spec.name} at width {width}")
    for layer in layers:
        if layer.bias.shape != layer.weight.shape[:1]:
            raise WeightsError(
                f"{path}: {layer.name} has {layer.weight.shape[0]} outputs and {layer.bias.numel()} biases"
            )
    if content.class_names and len(content.class_names) != shapes[-1][0]:
        raise WeightsError(f"{path}: names {len(content.class_names)} classes and scores {shapes[-1][0]}")
    with torch.device("meta"):
        model = VGG(
            spec.name,
            width=width,
            num_classes=shapes[-1][0],
            preprocessing=content.preprocessing,
            class_names=content.class_names,
        )
    model.training_record = content.training_record
    names = {module: name for name, module in model.named_modules()}
    state: dict[str, Tensor] = {}
    for module, layer in zip(weighted_layers(model), layers, strict=True):
        state[f"{names[module]}.weight"] = _finite(path, layer, layer.weight)
        state[f"{names[module]}.bias"] = _finite(path, layer, layer.bias)
    model.load_state_dict(state, assign=True)
    return model


def _finite(path: Path, layer: Layer, values: Tensor) -> Tensor:
    """The values as float32. Raises WeightsError if one is NaN or infinite."""
    values = values.detach().to(torch.float32).contiguous()
    if not all(torch.isfinite(extreme) for extreme in values.aminmax()):
        reason = f"{path}: {layer.name} has values that are NaN or infinite"
        if layer.name.startswith("classifier"):
            reason += "; a features-only file has no valid classifier, so no penultimate layer to take descriptors from"
        raise WeightsError(reason)
    return values


def _identified(path: Path, content: Layers, net: str | None) -> NetSpec:
    """The net of Table 1 that the layers are; `net` where several are alike (A and A-LRN)."""
    if content.net is not None:
        found = [net_spec(content.net)]
    else:
        shapes = [tuple(layer.weight.shape) for layer in content.layers]
        found = [spec for spec in NETS.values() if _width(spec, shapes) is not None]
        # torchvision's names count modules, so the LRN layer shows.
        named = [spec for spec in found if _names(spec) == [layer.name for layer in content.layers]]
        if named and named[0] != found[0]:
            found = named
    if not found:
        raise WeightsError(
            f"{path}: its {len(content.layers)} layers have the shapes of no net of Table 1, at no width factor"
        )
    if net is None:
        return found[0]
    asked = net_spec(net)
    if asked not in found:
        raise UsageError(f"{path}: holds net {found[0].name}, not {asked.name}")
    return asked


def _names(spec: NetSpec) -> list[str]:
    with torch.device("meta"):
        model = VGG(spec.name, width=1 / 64)
    names = {module: name for name, module in model.named_modules()}
    return [names[module] for module in weighted_layers(model)]


Shape = tuple[int, ...]


def _shapes(spec: NetSpec, width: float, num_classes: int) -> list[Shape]:
    """The weights' shapes of a net, in order."""
    shapes: list[Shape] = []
    previous = 3
    for conv in spec.convs:
        channels = scaled(conv.channels, width)
        shapes.append((channels, previous, conv.kernel, conv.kernel))
        previous = channels
    hidden = scaled(FC_CHANNELS, width)
    return [*shapes, (hidden, previous * POOLED_SIDE**2), (hidden, hidden), (num_classes, hidden)]


def _width(spec: NetSpec, shapes: list[Shape]) -> float | None:
    """A width factor at which a net has these shapes, the simplest one; None where there is none."""
    full = [conv.channels for conv in spec.convs] + [FC_CHANNELS] * 2
    found = [shape[0] for shape in shapes[:-1]]
    if len(full) != len(found):
        return None
    # Channels are rounded: each layer allows an interval of factors, and one of at most half a channel to 1.
    low = max((have - 0.5) / want if have > 1 else 0.0 for have, want in zip(found, full, strict=True))
    high = min((have + 0.5) / want for have, want in zip(found, full, strict=True))
    simple = found[-1] / FC_CHANNELS
    width = simple if low < simple < high else (low + high) / 2
    return width if width > 0 and _shapes(spec, width, shapes[-1][0]) == shapes else None
