"""Published weights that are recognised in any container, by hash or by value, and what they expect. No torch.

A layout alone says little: the same names hold Oxford's and torchvision's weights, whose input differs in channel
order, mean and scale. Wrong input gives poor descriptors without any error; hence this table and the rules below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vggfeat.nets.catalog import CC_BY, WEIGHTS
from vggfeat.nets.preprocessing import (
    OXFORD,
    OXFORD_RGB,
    PLACES205,
    TORCHVISION,
    TORCHVISION_FEATURES,
    VGG_FACE,
    VGG_FACE_RGB,
    Preprocessing,
)

Layout = Literal["caffe", "keras", "keras3", "torchvision", "jcjohnson", "mxnet", "mcn", "other"]
"""A way to name and store layers; it decides the preprocessing where one publisher alone uses it (`by_layout`)."""


@dataclass(frozen=True)
class Known:
    """Published weights: whose they are, what they expect of an image, and under which licence."""

    title: str
    preprocessing: Preprocessing
    license: str
    layout: Layout = "other"
    """Layout of the file with that digest."""
    digest: str = ""
    """`algorithm:hex` of the published file; for `sha256-prefix` the start of the sha256."""


_LAYOUTS: dict[str, Layout] = {"caffemodel": "caffe", "keras": "keras", "torchvision": "torchvision"}

FILES: tuple[Known, ...] = (
    *(
        Known(f"{one.source}'s net {one.net}", one.preprocessing, one.license, _LAYOUTS[one.format], one.digest)
        for one in WEIGHTS
    ),
    # keras/src/applications/vgg16.py and vgg19.py, file_hash of the files without top.
    Known("oxford's net D, by Keras, without top", OXFORD, CC_BY, "keras", "md5:6d6bbae143d832006294945121d1f1fc"),
    Known("oxford's net E, by Keras, without top", OXFORD, CC_BY, "keras", "md5:253f8cb515780f3b799900260a226db6"),
    # torchvision/models/vgg.py, VGG16_Weights.IMAGENET1K_FEATURES: vgg16_features-amdegroot-88682ab5.pth; the name ends
    # with the start of the sha256, as torch.hub checks it.
    Known(
        "amdegroot's net D, features only",
        TORCHVISION_FEATURES,
        "as github.com/amdegroot/ssd.pytorch says",
        "torchvision",
        "sha256-prefix:88682ab5",
    ),
)

OXFORD_D = (0.42947057, 0.55037946, 0.4800154)
"""First filter of Oxford's net D at its top left, for B, G and R."""
OXFORD_D_BIAS = 0.7342984
_TOLERANCE = 1e-3
"""Relative; half precision keeps this."""

MISSING_MEANS = {
    365: "Places365 subtracts a mean image (places365CNN_mean.binaryproto)",
    1365: "Hybrid1365 subtracts a mean image (places365CNN_mean.binaryproto)",
}
"""Numbers of outputs of published nets whose mean has no published channel values (CSAILVision/places365, issues 2, 3
and 74)."""

_FACES, _PLACES_205 = 2622, 205


def by_values(corner: Sequence[float], bias: float) -> Known | None:
    """Published weights recognised by their first filter.

    Args:
        corner: conv1_1's first filter at its top left, one value a channel.
        bias: conv1_1's first bias.
    """
    if not _close((bias,), (OXFORD_D_BIAS,)):
        return None
    if _close(corner, OXFORD_D):
        return Known("oxford's net D", OXFORD, CC_BY)
    if _close(corner, OXFORD_D[::-1]):
        return Known("oxford's net D, turned to RGB", OXFORD_RGB, CC_BY)
    return None


def by_layout(layout: Layout, outputs: int | None) -> Preprocessing | None:
    """What a layout and a number of outputs imply where the values are unknown; None where they do not decide.

    Args:
        outputs: of the last layer; None without fully-connected layers.
    """
    if layout in ("caffe", "keras", "keras3"):
        return {1000: OXFORD, _FACES: VGG_FACE, _PLACES_205: PLACES205}.get(outputs or 0) or (
            # keras.applications' names (block1_conv1, ..), without top: preprocess_input's "caffe" mode.
            OXFORD if layout == "keras" and outputs is None else None
        )
    if layout == "mcn":  # conv1_1.weight, .. in torch: vgg_face_dag.pth, whose meta.mean is in RGB order
        return VGG_FACE_RGB if outputs == _FACES else None
    if outputs is None or outputs in (_FACES, _PLACES_205, *MISSING_MEANS):
        return None
    return {
        "torchvision": TORCHVISION,  # also torchvision's fine-tuned nets
        "jcjohnson": OXFORD,  # github.com/jcjohnson/pytorch-vgg: converted from Caffe, BGR
        "mxnet": TORCHVISION,  # github.com/onnx/models, vision/classification/vgg: vgg0_conv0_weight, ..
    }.get(layout)


def _close(found: Sequence[float], expected: Sequence[float]) -> bool:
    return len(found) == len(expected) and all(
        abs(one - other) <= _TOLERANCE * abs(other) for one, other in zip(found, expected, strict=True)
    )
