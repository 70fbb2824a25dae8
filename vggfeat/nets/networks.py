"""Table 1's nets: a builder, the classifier form, and the fully-convolutional form of the same parameters."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vggfeat.errors import UsageError, VggfeatError, unknown_name
from vggfeat.nets.catalog import (
    FC_CHANNELS,
    INPUT_SIDE,
    LRN,
    NUM_CLASSES,
    RANDOM,
    STRIDE,
    NetSpec,
    Preprocessing,
    net_spec,
    scaled,
)
from vggfeat.nets.known import Known
from vggfeat.nets.layers import check_layers, without_pooling
from vggfeat.nets.modules import first_difference
from vggfeat.nets.wording import net_words
from vggfeat.system.files import PATIENCE, replacing
from vggfeat.system.numbers import number_of

Layer = Literal["fc6", "fc7", "scores"]

POOLED_SIDE = 7
"""Side of the last pooling's map for a 224x224 input, and of the first fully-connected layer's window."""

HEAD_DEPTHS: dict[str, int] = {"fc6": 2, "fc7": 5, "scores": 7}
"""Modules of the classifier up to each layer, its ReLU included (Sect. 3.2; Appendix B takes "fc7")."""

CHECKPOINT_FORMAT = "vggfeat-checkpoint"
CHECKPOINT_VERSION = 1


class VGG(nn.Module):
    """A net of Table 1, its parameters named as torchvision names them (`features.N`, `classifier.0/3/6`).

    Calling it runs the classifier form on crops, `dense` the fully-convolutional form on whole images; both
    read the same tensors. New nets carry PyTorch's initial values; `load_net` gives nets with weights.

    Args:
        net: a name of Table 1, such as "D".
        width: factor on every layer's channels (1.0 is the paper's), for small experiments.
        num_classes: outputs of the last layer.
        preprocessing: what these weights expect of an image.
        class_names: one name an output, where known.
        top: with the three fully-connected layers. Without them `classifier` is None, the net scores no classes,
            and asking for one of these layers raises UsageError.
    """

    classifier: nn.Sequential
    """The fully-connected layers; None in a net without them (`has_top`)."""

    def __init__(
        self,
        net: str = "D",
        *,
        width: float = 1.0,
        num_classes: int = NUM_CLASSES,
        preprocessing: Preprocessing = RANDOM,
        class_names: tuple[str, ...] = (),
        top: bool = True,
    ) -> None:
        super().__init__()
        if not width > 0:
            raise UsageError(f"width {width} is not a positive factor")
        if top and num_classes < 1:
            raise UsageError(f"{num_classes} classes: a net needs at least one")
        self.spec = net_spec(net)
        self.width = width
        self._built_classes = num_classes if top else 0
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.weights_name = "none"
        self.weights_sha256: str | None = None
        """Hash of the file that the values came from (`came_from`); None: hash the tensors (`fingerprint`)."""
        self._read: tuple[bytes, dict[int, int]] = (b"", {})
        """Of the values that came from that file: `_samples` and `_versions`."""
        self.seed: int | None = None
        """Seed of `glorot_`, where the values are random."""
        self.origin: Known | None = None
        """The published weights that the values were recognised as."""
        self.precision = "fp32"
        """Number format to run in; the tensors themselves stay float32."""
        self.input_maxima: dict[str, float] | None = None
        """What 8 bits take of it: the largest value that reaches each layer (`vggfeat.inference.calibration`)."""
        self.training_record: dict[str, Any] = {}
        """How the values were trained, as plain data; kept by `save`."""
        self.features, channels = _trunk(self.spec, width)
        if not top:
            self.register_module("classifier", None)
            return
        hidden = scaled(FC_CHANNELS, width)
        self.classifier = nn.Sequential(
            nn.Linear(channels * POOLED_SIDE**2, hidden, dtype=torch.float32),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden, dtype=torch.float32),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, num_classes, dtype=torch.float32),
        )

    def __repr__(self) -> str:  # torch's lists every layer
        return f"<VGG {net_words(self.net, self.weights_name, self.width)}, {number_of(self.num_classes, 'class')}>"

    @property
    def net(self) -> str:
        """The net's name in Table 1."""
        return self.spec.name

    @property
    def num_classes(self) -> int:
        """Outputs of the last layer, also of one that was put in place of the former; 0 without that layer."""
        last = self.classifier[-1] if self.has_top else None
        return last.out_features if isinstance(last, nn.Linear) else self._built_classes

    @property
    def has_top(self) -> bool:
        """Whether the net has its fully-connected layers."""
        return self.classifier is not None

    def need(self, layer: str) -> None:
        """Raises UsageError for a layer that this net does not have, naming one that works."""
        layer = without_pooling(layer)
        check_layers(self.spec, (layer,))
        if layer in ("fc6", "fc7", "scores") and not self.has_top:
            without = "it scores no classes" if layer == "scores" else f"no {layer}; take `layer=pool5`"
            raise UsageError(f"{self.weights_name} has no fully-connected layers, so {without}")

    def dim(self, layer: Layer = "fc7") -> int:
        """Length of a layer's activation vector."""
        self.need(layer)
        return self.num_classes if layer == "scores" else scaled(FC_CHANNELS, self.width)

    def forward(self, crops: Tensor) -> Tensor:
        """Classifier form: preprocessed crops (N, 3, 224, 224) -> class scores before the soft-max (N, classes)."""
        self.need("scores")
        pooled: Tensor = self.classifier(self.features(checked_crops(crops)).flatten(1))
        return pooled

    def dense(self, images: Tensor, layer: Layer = "fc7") -> Tensor:
        """Fully-convolutional form (Sect. 3.2): (N, 3, H, W), H and W at least 224 -> map (N, h, w, D).

        "fc6" and "fc7" are after their ReLU; "scores" before the soft-max. Dropout is the module's own: call
        `eval()` first. Raises UsageError for another layer, ValueError for images that are too small.
        """
        _check_head_layer(layer)
        self.need(layer)
        if min(images.shape[-2:]) <= (POOLED_SIDE - 1) * STRIDE:  # its pooled map has no 7x7 window
            height, width = images.shape[-2:]
            raise ValueError(f"the dense form takes images of 224 pixels or more a side, not {height}x{width}")
        return self.dense_head(self.features(images), layer)

    def dense_head(self, pooled: Tensor, layer: Layer = "fc7") -> Tensor:
        """The fully-connected layers at every position of the last pooling's map: (N, C, h', w') -> (N, h, w, D).

        The first one is a 7x7 convolution. As a matrix product over unfolded windows it takes a seventh of the time
        of a channels_last convolution in bf16, and the windows are in the order of the Linear's weight.
        """
        n, _, height, width = pooled.shape
        out = self.head(windows(pooled), layer)
        return out.reshape(n, height - POOLED_SIDE + 1, width - POOLED_SIDE + 1, -1)

    def head(self, windows: Tensor, layer: Layer = "fc7") -> Tensor:
        """The fully-connected layers on unfolded windows: (M, C 7 7) -> (M, D)."""
        _check_head_layer(layer)
        self.need(layer)
        out: Tensor = self.classifier[: HEAD_DEPTHS[layer]](windows)
        return out

    def came_from(self, name: str, sha256: str) -> None:
        """Records the file that the values, as they are now, came from."""
        self.weights_name, self.weights_sha256 = name, sha256
        self._read = _samples(self), _versions(self)

    def fingerprint(self) -> str:
        """The sha256 of the file that the weights came from; of the tensors, where there is none or they have changed.

        They change by training of one's own, by `load_state_dict` and by hand, of which the net is not told.
        """
        if self.weights_sha256 is not None and self._is_as_read():
            return self.weights_sha256
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy())
        return digest.hexdigest()

    def _is_as_read(self) -> bool:
        samples, versions = self._read
        return _versions(self) == versions and _samples(self) == samples

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep: not the file's hash if the weights have changed since they were read."""
        as_read = self.weights_sha256 is None or self._is_as_read()
        return self.__dict__ | ({} if as_read else {"weights_sha256": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copy, and counts later changes of its own tensors."""
        super().__setstate__(state)
        self._read = self._read[0], _versions(self)

    def check_as_built(self, *, hooks: bool = True) -> None:
        """Raises UsageError where a module was replaced, wrapped or hooked, or a tensor has another shape.

        Extraction reads the parameters and runs its own modules, so such an edit would be ignored. Replacing the last
        layer is allowed.

        Args:
            hooks: refuse hooks too.
        """
        with torch.device("meta"):
            usual = VGG(self.net, width=self.width, num_classes=max(self.num_classes, 1), top=self.has_top)
        words = net_words(self.net, self.weights_name, self.width)
        if difference := first_difference(self, usual, hooks):
            raise UsageError(f"the net is no longer {words}: {difference}")

    def checkpoint(self) -> dict[str, Any]:
        """The net as plain data and tensors, readable by torch.load(..., weights_only=True).

        A last layer that was put in place of the former one counts with its own outputs, which have no names. Raises
        UsageError where other layers have changed, which `load_net` could not read.
        """
        self.check_as_built(hooks=False)
        return {
            "format": CHECKPOINT_FORMAT,
            "format_version": CHECKPOINT_VERSION,
            "net": self.net,
            "width": self.width,
            "num_classes": self.num_classes,
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "class_names": list(self.class_names) if self.num_classes == self._built_classes else [],
            "training": self.training_record,
            # Plain contiguous tensors: the memory format belongs to the machine that runs them.
            "state_dict": {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()},
        }

    def save(self, path: str | Path) -> Path:
        """Writes a vggfeat checkpoint, whole or not at all, and returns its path."""
        return write_checkpoint(path, self.checkpoint())


def _check_head_layer(layer: str) -> None:
    if layer not in HEAD_DEPTHS:
        raise unknown_name("fully-connected layer", layer, HEAD_DEPTHS)


SAMPLED = 1 << 12
"""About how many values of a tensor tell whether it has changed."""


def _samples(net: VGG) -> bytes:
    """Some values of each tensor, evenly over it: training changes nearly all, and to hash all takes half a second.

    The step is odd: one that divides the length of a row would look at a single column.
    """
    some = (p.detach().flatten()[:: p.numel() // SAMPLED | 1] for p in net.parameters())
    return b"".join(values.float().cpu().numpy().tobytes() for values in some)


def _versions(net: VGG) -> dict[int, int]:
    """By id, how often each tensor was written in place, as torch counts; a new tensor has another id."""
    return {id(p): 0 if p.is_inference() else p._version for p in net.parameters()}


@torch.fx.wrap  # one step of a trace, which cannot follow the comparison
def checked_crops(crops: Tensor) -> Tensor:
    """The crops. Raises ValueError unless they are 224x224."""
    if crops.shape[-2:] != (INPUT_SIDE, INPUT_SIDE):
        raise ValueError(f"the classifier form takes 224x224 crops, not {tuple(crops.shape[-2:])}")
    return crops


def write_checkpoint(path: str | Path, content: dict[str, Any], patience: float = PATIENCE) -> Path:
    """Writes tensors and plain data, whole or not at all, and returns the path.

    Args:
        patience: seconds to wait for a program that has the former file open.

    Raises VggfeatError where they cannot be written.
    """
    with replacing(path, patience) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch drops the system's reason
            raise VggfeatError(f"{path}: cannot write: no room on the disk, or a limit on file sizes") from error
    return Path(path)


def windows(pooled: Tensor) -> Tensor:
    """The 7x7 windows of the last pooling's map, row by row: (N, C, h', w') -> (N h w, C 7 7)."""
    views = pooled.unfold(2, POOLED_SIDE, 1).unfold(3, POOLED_SIDE, 1)  # (N, C, h, w, 7, 7)
    return views.permute(0, 2, 3, 1, 4, 5).reshape(-1, pooled.shape[1] * POOLED_SIDE**2)


def _trunk(spec: NetSpec, width: float) -> tuple[nn.Sequential, int]:
    """The convolutional layers, and the number of channels of the last."""
    modules: list[nn.Module] = []
    channels = 3
    for layer in spec.layers:
        if layer == "M":
            # Round up, as Caffe does, so that no border of a larger image is dropped.
            modules.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        elif layer == "LRN":
            modules.append(nn.LocalResponseNorm(int(LRN["size"]), LRN["alpha"], LRN["beta"], LRN["k"]))
        else:
            out = scaled(layer.channels, width)
            modules += [
                nn.Conv2d(channels, out, layer.kernel, padding=layer.kernel // 2, dtype=torch.float32),
                nn.ReLU(inplace=True),
            ]
            channels = out
    return nn.Sequential(*modules), channels


def weighted_layers(net: VGG) -> list[nn.Conv2d | nn.Linear]:
    """The layers with weights, in order: convolutions first, then the fully-connected ones, if any."""
    return [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def glorot_(net: VGG, seed: int = 0) -> VGG:
    """Sets random weights from Glorot and Bengio's uniform distribution (2010; Sect. 3.1), and zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weighted_layers(net):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    net.weights_sha256, net.seed = None, seed
    return net


def gaussian_(net: VGG, std: float = 0.01, seed: int = 0) -> VGG:
    """Sets weights from N(0, std^2) and zero biases (Sect. 3.1, which gives the variance)."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weighted_layers(net):
        nn.init.normal_(layer.weight, std=std, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    net.weights_sha256, net.seed = None, None
    return net
