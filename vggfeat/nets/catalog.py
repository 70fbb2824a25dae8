"""Table 1's nets and the published weights, as data. Imports no torch, so that the command line lists them at once.

Source of the nets: Simonyan and Zisserman, arXiv 1409.1556, Table 1 and Table 2; shallow B: Sect. 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vggfeat.errors import UsageError, nearest, unknown_name
from vggfeat.nets.preprocessing import OXFORD, RANDOM, TORCHVISION, Filter, Preprocessing

__all__ = ["OXFORD", "RANDOM", "TORCHVISION", "Filter", "Preprocessing"]

INPUT_SIDE = 224
"""Side of the nets' training input in pixels (Sect. 2.1): the smallest Q for fully-connected layers."""

STRIDE = 32
"""Pixels of the image per position of the last pooling's map: five 2x2 poolings of stride 2."""

FC_CHANNELS = 4096
NUM_CLASSES = 1000


@dataclass(frozen=True)
class Conv:
    """A convolution of stride 1 whose padding keeps the size: `channels` filters of `kernel` x `kernel`."""

    channels: int
    kernel: int = 3


@dataclass(frozen=True)
class NetSpec:
    """One column of Table 1."""

    name: str
    layers: tuple[Conv | Literal["M", "LRN"], ...]
    """Convolutions (each followed by a ReLU), "M" for 2x2 max-pooling, "LRN" for local response normalisation."""

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The convolutions, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Conv))

    @property
    def steps(self) -> tuple[str, ...]:
        """What the convolutional part computes, in order, under ONNX' names."""
        pooling = "MaxPool 2x2 of stride 2x2"
        words = {"M": (pooling,), "LRN": ("LRN",)}
        return tuple(
            step for layer in self.layers for step in (("Conv", "Relu") if isinstance(layer, Conv) else words[layer])
        )

    @property
    def weight_layers(self) -> int:
        """Depth as the paper counts it: convolutions and the three fully-connected layers."""
        return len(self.convs) + 3

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers that can describe an image, in order: conv1_1, .., pool1, .., pool5, fc6, fc7.

        The field's notation for Table 1 (Oxford's Caffe files use it); a convolution's is that of its block and place.
        """
        names: list[str] = []
        block, place = 1, 0
        for layer in self.layers:
            if isinstance(layer, Conv):
                place += 1
                names.append(f"conv{block}_{place}")
            elif layer == "M":
                names.append(f"pool{block}")
                block, place = block + 1, 0
        return (*names, "fc6", "fc7")

    @property
    def weighted_names(self) -> tuple[str, ...]:
        """Names of the layers with weights, in order: conv1_1, .., fc6, fc7, fc8."""
        return (*(name for name in self.layer_names if not name.startswith("pool")), "fc8")

    def parameters(self, num_classes: int = NUM_CLASSES, width: float = 1.0) -> int:
        """Number of weights and biases."""
        total, previous = 0, 3
        for conv in self.convs:
            channels = scaled(conv.channels, width)
            total += (previous * conv.kernel**2 + 1) * channels
            previous = channels
        hidden = scaled(FC_CHANNELS, width)
        return total + (previous * 49 + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * num_classes


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a width factor: at least one."""
    return max(1, round(channels * width))


def _layers(text: str) -> tuple[Conv | Literal["M", "LRN"], ...]:
    """Reads Table 1's own notation: `64`, `256x3` (three of them), `256/1` (kernel 1x1), `M`, `LRN`."""
    layers: list[Conv | Literal["M", "LRN"]] = []
    for word in text.split():
        if word in ("M", "LRN"):
            layers.append("M" if word == "M" else "LRN")
            continue
        size, _, times = word.partition("x")
        channels, _, kernel = size.partition("/")
        layers += [Conv(int(channels), int(kernel or 3))] * int(times or 1)
    return tuple(layers)


NETS: dict[str, NetSpec] = {
    name: NetSpec(name, _layers(text))
    for name, text in {
        "A": "64 M 128 M 256x2 M 512x2 M 512x2 M",
        "A-LRN": "64 LRN M 128 M 256x2 M 512x2 M 512x2 M",
        "B": "64x2 M 128x2 M 256x2 M 512x2 M 512x2 M",
        "C": "64x2 M 128x2 M 256x2 256/1 M 512x2 512/1 M 512x2 512/1 M",
        "D": "64x2 M 128x2 M 256x3 M 512x3 M 512x3 M",
        "E": "64x2 M 128x2 M 256x4 M 512x4 M 512x4 M",
        # Sect. 4.1: each pair of 3x3 convolutions of B replaced by one 5x5 with the same receptive field.
        "shallow-B": "64/5 M 128/5 M 256/5 M 512/5 M 512/5 M",
    }.items()
}


LRN = {"size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2.0}
"""Constants of A-LRN's normalisation (Krizhevsky et al. 2012), whose sum is divided by `size`, as torch and ONNX do;
Krizhevsky's is not, so his alpha of 1e-4 becomes 5e-4."""

ALIASES = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
"""torchvision's names; C has 16 layers too, but D is the net that everybody calls VGG-16."""

DISPLAY_NAMES = {
    name: next((f"{name} (VGG-{alias[3:]})" for alias, net in ALIASES.items() if net == name), name) for name in NETS
}
"""Names of the nets as errors and listings show them."""


def net_spec(name: str) -> NetSpec:
    """The net of that name in any case: D, shallow B, vgg16, VGG-16. Raises UsageError with the valid names."""
    folded = name.strip().casefold().replace(" ", "-").replace("_", "-")
    key = {key.casefold(): key for key in NETS}.get(folded) or ALIASES.get(folded.replace("-", ""))
    if key is None:
        near = nearest(name, [*NETS, *ALIASES])
        hint = f"did you mean {near!r}? " if near else ""
        raise UsageError(f"no net {name!r}; {hint}valid: {', '.join(DISPLAY_NAMES.values())}")
    return NETS[key]


Format = Literal["caffemodel", "keras", "torchvision"]


@dataclass(frozen=True)
class Score:
    """A published ILSVRC-2012 validation score: errors in %, as the publisher measured them."""

    top1: float
    top5: float
    setting: str


@dataclass(frozen=True)
class WeightsRow:
    """Published weights: their address, the hash that proves them, and the input that they expect."""

    net: str
    source: str
    format: Format
    url: str
    filename: str
    digest: str
    """`algorithm:hex`; for `sha256-prefix` the hex is the start of the sha256."""
    size: int | None
    """Bytes, where published."""
    preprocessing: Preprocessing
    score: Score | None
    license: str


_OXFORD_URL = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/"
_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
_TORCH_URL = "https://download.pytorch.org/models/"
CC_BY = "CC BY 4.0 (Oxford VGG)"
_BSD = "BSD-3-Clause (torchvision); trained on ILSVRC, whose terms apply"
# Table 4, models trained with scale jittering and tested at 256, 384, 512: the nets that Oxford released.
_OXFORD_SCORE = Score(24.8, 7.5, "dense, Q 256, 384, 512 (paper, Table 4)")


def _oxford(net: str, depth: int, digest: str, size: int) -> WeightsRow:
    filename = f"VGG_ILSVRC_{depth}_layers.caffemodel"
    return WeightsRow(
        net,
        "oxford",
        "caffemodel",
        _OXFORD_URL + filename,
        filename,
        digest,
        size,
        OXFORD,
        _OXFORD_SCORE,
        CC_BY,
    )


def _keras(net: str, folder: str, md5: str) -> WeightsRow:
    filename = f"{folder}_weights_tf_dim_ordering_tf_kernels.h5"
    url = f"{_KERAS_URL}{folder}/{filename}"
    return WeightsRow(net, "oxford-keras", "keras", url, filename, f"md5:{md5}", None, OXFORD, _OXFORD_SCORE, CC_BY)


def _torchvision(net: str, filename: str, top1_accuracy: float, top5_accuracy: float) -> WeightsRow:
    prefix = filename.rpartition("-")[2].removesuffix(".pth")
    score = Score(
        round(100 - top1_accuracy, 3),
        round(100 - top5_accuracy, 3),
        "centre crop (torchvision, IMAGENET1K_V1)",
    )
    return WeightsRow(
        net,
        "torchvision",
        "torchvision",
        _TORCH_URL + filename,
        filename,
        f"sha256-prefix:{prefix}",
        None,
        TORCHVISION,
        score,
        _BSD,
    )


WEIGHTS: tuple[WeightsRow, ...] = (
    _oxford("D", 16, "sha256:a6196bc498e45ea4cb2637114ae8db9410cf1556fd60a55ae93272371beba197", 553432081),
    _oxford(
        "E",
        19,
        "sha384:86b83739d448a81ddc927922d4d7581e06113478106b59480097b02cc63ff51c9da7c3cd8a865b08946d07d0281d5b2e",
        574671192,
    ),
    _keras("D", "vgg16", "64373286793e3c8b2b4e3219cbf3544b"),
    _keras("E", "vgg19", "cbe5617147190e668d6c5d5026f83318"),
    _torchvision("A", "vgg11-8a719046.pth", 69.020, 88.628),
    _torchvision("B", "vgg13-19584684.pth", 69.928, 89.246),
    _torchvision("D", "vgg16-397923af.pth", 71.592, 90.382),
    _torchvision("E", "vgg19-dcbb9e9d.pth", 72.376, 90.876),
)

SOURCES = ("oxford", "oxford-keras", "torchvision")
"""Whose weights `download` and `load_net` can fetch."""

WEIGHTS_NAMES = ("published", *SOURCES, "none")
"""What `weights` may be besides a file."""


def weights_rows(net: str, source: str = "published") -> tuple[WeightsRow, ...]:
    """The rows to try, in order, for a net and a source.

    "published" is Oxford's for D and E, torchvision's for A and B. "oxford" gives the caffemodel first and Keras' copy
    of the same weights second. Empty for a net without published weights. Raises UsageError for an unknown net or
    source.
    """
    spec = net_spec(net)
    if source not in (*SOURCES, "published"):
        raise unknown_name("weights source", source, ("published", *SOURCES))
    rows = [row for row in WEIGHTS if row.net == spec.name]
    if source == "published":
        source = rows[0].source if rows else "published"
    return tuple(row for row in rows if row.source == source or (source, row.source) == ("oxford", "oxford-keras"))
