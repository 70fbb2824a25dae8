"""What `bench` measures: layers and SVM problems. Imports neither torch nor scikit-learn, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Measured = Literal["fc7", "pool5"]
MEASURED: tuple[Measured, ...] = get_args(Measured)
"""The layers of `bench extract`: the last before the classes, and the last of the convolutional part."""

Form = Literal["gram", "primal"]
"""Newton's method on the Gram matrix of the images, or on the weights."""
FORM_SIZES = tuple((images, values) for images in (1000, 2500, 10_000) for values in (64, 128, 256, 512))
FORM_CLASSES = 20
"""The problems of `bench solvers`: (images, values a descriptor), and the number of classes of all."""

MIN_TIMED_CLASSES = 8


@dataclass(frozen=True)
class Size:
    """One problem: `classes` with `per_class` samples each (or `samples` multi-label ones), `dim` features."""

    classes: int
    dim: int
    per_class: int = 0
    samples: int = 0
    signal: float = 0.35
    timed_classes: int = 0  # LIBLINEAR is timed on this many classes and scaled; 0: on all


SIZES = {
    "caltech101": Size(classes=102, dim=4096, per_class=24),
    "caltech256": Size(classes=257, dim=12288, per_class=48, signal=0.37, timed_classes=MIN_TIMED_CLASSES),
    "pool5": Size(classes=102, dim=512, per_class=24),
    "wide": Size(classes=102, dim=256, per_class=24),
    "many": Size(classes=100, dim=512, per_class=500, timed_classes=1),
    "voc": Size(classes=20, dim=8192, samples=5011, signal=1.0),
}
