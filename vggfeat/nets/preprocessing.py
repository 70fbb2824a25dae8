"""What weights expect of an image: known conventions by name, and others from a TOML file. Imports no torch."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from vggfeat.errors import UsageError, nearest
from vggfeat.system.files import is_file

Filter = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocessing:
    """What weights expect of an RGB image with values 0 to 255; it belongs to the weights.

    A channel value v becomes (v * scale - mean) / std; mean and std are in the order of `channels`.
    """

    channels: Literal["RGB", "BGR"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    filter: Filter
    """Resampling filter of the isotropic rescaling, always with antialiasing."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing that a file records. Raises ValueError, TypeError or KeyError for anything else."""
        mean, std = (tuple(float(value) for value in record[key]) for key in ("mean", "std"))
        scale = float(record["scale"])
        sound = (
            len(mean) == len(std) == 3
            and all(math.isfinite(value) for value in (*mean, *std, scale))
            and all(std)
            and record["channels"] in ("RGB", "BGR")
            and record["filter"] in ("bilinear", "bicubic")
            and set(record) == {field.name for field in fields(cls)}
        )
        if not sound:
            raise ValueError(f"preprocessing {dict(record)}")
        return cls(record["channels"], scale, mean, std, record["filter"])  # type: ignore[arg-type]


_ONES = (1.0, 1.0, 1.0)

OXFORD = Preprocessing("BGR", 1.0, (103.939, 116.779, 123.68), _ONES, "bicubic")
OXFORD_RGB = Preprocessing("RGB", 1.0, (123.68, 116.779, 103.939), _ONES, "bicubic")
"""Oxford's, for weights whose first layer was turned to RGB."""
TORCHVISION = Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
TORCHVISION_FEATURES = Preprocessing(
    "RGB", 1 / 255, (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255), "bilinear"
)
"""torchvision's VGG16_Weights.IMAGENET1K_FEATURES (torchvision/models/vgg.py)."""
VGG_FACE = Preprocessing("BGR", 1.0, (93.5940, 104.7624, 129.1863), _ONES, "bicubic")
"""VGG-Face (Parkhi et al. 2015): averageImage 129.1863, 104.7624, 93.5940 in RGB order (vgg_face_caffe's demo)."""
VGG_FACE_RGB = Preprocessing("RGB", 1.0, (129.1863, 104.7624, 93.5940), _ONES, "bicubic")
"""The same for ports with an RGB first layer, such as pytorch-mcn's vgg_face_dag."""
PLACES205 = Preprocessing("BGR", 1.0, (105.487823486, 113.741088867, 116.060394287), _ONES, "bicubic")
"""Places205-VGG (Wang et al. 2015): the mean pixel of its readme, in BGR order."""
RANDOM = Preprocessing("RGB", 1.0, (123.68, 116.779, 103.939), _ONES, "bilinear")
"""For random weights: ILSVRC's mean RGB, the paper's only preprocessing (Sect. 2.1)."""

NAMED: dict[str, Preprocessing] = {
    "oxford": OXFORD,
    "oxford-rgb": OXFORD_RGB,
    "torchvision": TORCHVISION,
    "torchvision-features": TORCHVISION_FEATURES,
    "vgg-face": VGG_FACE,
    "vgg-face-rgb": VGG_FACE_RGB,
    "places205": PLACES205,
}
"""What `preprocessing` may be besides a TOML file."""


def preprocessing_of(choice: str | os.PathLike[str] | Preprocessing) -> Preprocessing:
    """The preprocessing of that name, or from a TOML file with the keys channels, scale, mean, std and filter.

    Raises UsageError for an unknown name and for a file without exactly these keys.
    """
    if isinstance(choice, Preprocessing):
        return choice
    if str(choice) in NAMED:
        return NAMED[str(choice)]
    path = Path(choice)
    if not is_file(path):
        near = nearest(str(choice), NAMED)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"no preprocessing {str(choice)!r}: no such file, and not one of {', '.join(NAMED)}{hint}")
    try:
        return Preprocessing.from_record(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, KeyError) as error:  # TOML's and UTF-8's errors are ValueErrors
        raise UsageError(
            f"{path}: not a preprocessing ({type(error).__name__}: {error}); it takes channels = 'RGB' or 'BGR', "
            "scale, mean = [three numbers], std = [three numbers] and filter = 'bilinear' or 'bicubic': a value v of "
            "0 to 255 becomes (v * scale - mean) / std"
        ) from error
