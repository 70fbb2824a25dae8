"""Table 1's nets: a builder, the classifier form, and the fully-convolutional form of the same parameters."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vggfeat.errors import UsageError, VggfeatError
from vggfeat.nets.catalog import (
    FC_CHANNELS,
    INPUT_SIDE,
    NUM_CLASSES,
    RANDOM,
    NetSpec,
    Preprocessing,
    net_spec,
    scaled,
)
from vggfeat.system.files import replacing

Layer = Literal["fc6", "fc7", "scores"]

POOLED_SIDE = 7
"""Side of the last pooling's map for a 224x224 input, and of the first fully-connected layer's window."""

# How much of the classifier yields each layer, its ReLU included (Sect. 3.2; Appendix B takes "fc7").
_CLASSIFIER_DEPTH: dict[str, int] = {"fc6": 2, "fc7": 5, "scores": 7}

CHECKPOINT_FORMAT = "vggfeat-checkpoint"
CHECKPOINT_VERSION = 1


class VGG(nn.Module):
    """A net of Table 1, its parameters named as torchvision names them (`features.N`, `classifier.0/3/6`).

    Calling it runs the classifier form on crops, `dense` the fully-convolutional form on whole images; both
    read the same tensors. New nets carry PyTorch's own initial values until `glorot_` or a reader of
    weights.py sets them.

    Args:
        net: a name of Table 1, such as "D".
        width: factor on every layer's channels (1.0 is the paper's), for small experiments.
        num_classes: outputs of the last layer.
        preprocessing: what these weights expect of an image.
        class_names: one name an output, where known.
    """

    def __init__(
        self,
        net: str = "D",
        *,
        width: float = 1.0,
        num_classes: int = NUM_CLASSES,
        preprocessing: Preprocessing = RANDOM,
        class_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if not width > 0:
            raise UsageError(f"width {width} is no positive factor")
        if num_classes < 1:
            raise UsageError(f"{num_classes} classes: a net needs at least one")
        self.spec = net_spec(net)
        self.width = width
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.weights_name = "none"
        self.weights_sha256: str | None = None
        """Hash of the file that the values came from; None: hash the tensors (`fingerprint`)."""
        self.seed: int | None = None
        """Of `glorot_`, where the values are its; else None."""
        self.precision = "fp32"
        """Number format to run in (devices.py's names); the tensors themselves stay float32."""
        self.training_record: dict[str, Any] = {}
        """How the values were trained, as plain data; kept by `save`."""
        self.features, channels = _trunk(self.spec, width)
        hidden = scaled(FC_CHANNELS, width)
        self.classifier = nn.Sequential(
            nn.Linear(channels * POOLED_SIDE**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, num_classes),
        )

    @property
    def net(self) -> str:
        """The net's name in Table 1."""
        return self.spec.name

    def dim(self, layer: Layer = "fc7") -> int:
        """Length of a layer's activation vector."""
        return self.num_classes if layer == "scores" else scaled(FC_CHANNELS, self.width)

    def forward(self, crops: Tensor) -> Tensor:
        """Classifier form: preprocessed crops (N, 3, 224, 224) -> class scores before the soft-max (N, classes)."""
        if crops.shape[-2:] != (INPUT_SIDE, INPUT_SIDE):
            raise ValueError(f"the classifier form takes 224x224 crops, not {tuple(crops.shape[-2:])}")
        pooled: Tensor = self.classifier(self.features(crops).flatten(1))
        return pooled

    def dense(self, images: Tensor, layer: Layer = "fc7") -> Tensor:
        """Fully-convolutional form (Sect. 3.2): (N, 3, H, W), H and W at least 224 -> map (N, h, w, D).

        "fc6" and "fc7" are after their ReLU; "scores" before the soft-max. Dropout is the module's own: call
        `eval()` first.
        """
        return self.dense_head(self.features(images), layer)

    def dense_head(self, pooled: Tensor, layer: Layer = "fc7") -> Tensor:
        """The fully-connected layers at every position of the last pooling's map: (N, C, h', w') -> (N, h, w, D).

        The first one is a 7x7 convolution; as a matrix product over unfolded windows it takes a seventh of the
        time of a channels_last convolution in bf16, and its windows' order is that of the Linear's own weight.
        """
        n, _, height, width = pooled.shape
        out = self.head(windows(pooled), layer)
        return out.reshape(n, height - POOLED_SIDE + 1, width - POOLED_SIDE + 1, -1)

    def head(self, windows: Tensor, layer: Layer = "fc7") -> Tensor:
        """The fully-connected layers on unfolded windows, of whichever images: (M, C 7 7) -> (M, D)."""
        out: Tensor = self.classifier[: _CLASSIFIER_DEPTH[layer]](windows)
        return out

    def fingerprint(self) -> str:
        """The sha256 of the file that the weights came from, or else of the tensors themselves."""
        if self.weights_sha256 is not None:
            return self.weights_sha256
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy())
        return digest.hexdigest()

    def checkpoint(self) -> dict[str, Any]:
        """The net as plain data and tensors, which torch loads with weights_only=True."""
        return {
            "format": CHECKPOINT_FORMAT,
            "format_version": CHECKPOINT_VERSION,
            "net": self.net,
            "width": self.width,
            "num_classes": self.num_classes,
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "class_names": list(self.class_names),
            "training": self.training_record,
            # Plain contiguous tensors: the memory format is a matter of the machine that runs them.
            "state_dict": {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()},
        }

    def save(self, path: str | Path) -> Path:
        """Writes a vggfeat checkpoint, whole or not at all, and returns its path."""
        return write_checkpoint(path, self.checkpoint())


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes tensors and plain data, whole or not at all, and returns the path.

    Raises VggfeatError where they cannot be written.
    """
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # all that torch makes of what the system says
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
            # Ceil, as in the Caffe lineage of the paper: no border of a larger image is dropped.
            modules.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        elif layer == "LRN":
            # Krizhevsky's sum is not divided by n, torch's is: alpha 1e-4 there is n * 1e-4 here.
            modules.append(nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
        else:
            out = scaled(layer.channels, width)
            modules += [
                nn.Conv2d(channels, out, layer.kernel, padding=layer.kernel // 2),
                nn.ReLU(inplace=True),
            ]
            channels = out
    return nn.Sequential(*modules), channels


def weighted_layers(net: VGG) -> list[nn.Conv2d | nn.Linear]:
    """The layers with weights, in order: convolutions first, then the three fully-connected ones."""
    return [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def glorot_(net: VGG, seed: int = 0) -> VGG:
    """Sets random weights, uniform as Glorot and Bengio (2010) give them (Sect. 3.1), and zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weighted_layers(net):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    net.weights_sha256, net.seed = None, seed
    return net


def gaussian_(net: VGG, std: float = 0.01, seed: int = 0) -> VGG:
    """Sets weights from N(0, std^2) and zero biases (Sect. 3.1, with a standard deviation in place of the variance)."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weighted_layers(net):
        nn.init.normal_(layer.weight, std=std, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    net.weights_sha256, net.seed = None, None
    return net
