"""What extraction, evaluation and localisation are told: choices and settings, checked. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from vggfeat.datasets.outage import MAX_READ_FAILURES
from vggfeat.errors import UsageError, unknown_name
from vggfeat.store.pooling import AGGREGATES, Aggregate, check_scales
from vggfeat.system.launch import default_workers

if TYPE_CHECKING:
    from vggfeat.nets.networks import VGG

    NetLike = str | VGG

WeightsLike = str | os.PathLike[str] | None
Progress = Callable[[int, int, int], None]
"""Called with (images done, images, images failed)."""
Fetching = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all or None) while weights are fetched."""

Layer = Literal["fc6", "fc7"]
LAYERS: tuple[Layer, ...] = get_args(Layer)

Pooling = Literal["avg", "max", "gem", "none"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""How a map becomes a vector: mean over positions, maximum, generalised mean, or the whole map in the order C, H, W."""

GEM_POWER = 3.0
"""p of the generalised mean (mean of x^p)^(1/p) (Radenovic et al., "Fine-tuning CNN Image Retrieval", 2018)."""

Region = Literal["image", "box", "both"]
REGIONS: tuple[Region, ...] = get_args(Region)

View = Literal["dense", "crops", "both", "center"]
VIEWS: tuple[View, ...] = get_args(View)

ScaleRule = Literal["single", "multi"]
SCALE_RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)

Protocol = Literal["1", "2"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

LocalisedSubset = Literal["val", "test"]
LOCALISED_SUBSETS: tuple[LocalisedSubset, ...] = get_args(LocalisedSubset)
"""Parts of ILSVRC that `localise` takes."""


@dataclass(frozen=True)
class DescriptorSettings:
    """What a descriptor is made of, apart from the nets. Raises UsageError where a value makes no sense."""

    scales: tuple[int, ...] = (256, 384, 512)
    """Smallest sides Q in pixels, at least 224."""
    aggregate: Aggregate = "stack"
    flip: bool = True
    layer: Layer = "fc7"
    region: Region = "image"
    """The whole image, the sample's box, or both stacked (VOC action, Appendix B)."""
    exif: bool = True
    """Honour the EXIF orientation: for users' own pictures; the benchmarks' protocols ignored it."""

    def __post_init__(self) -> None:
        check_scales(self.scales)
        for kind, value, valid in (
            ("aggregation", self.aggregate, AGGREGATES),
            ("layer", self.layer, LAYERS),
            ("region", self.region, REGIONS),
        ):
            if value not in valid:
                raise unknown_name(kind, value, valid)


@dataclass(frozen=True)
class NetChoice:
    """Which nets to run, and on what; see `load_net` for the values."""

    net: NetLike | Sequence[NetLike] | None = None
    """Names of Table 1, or nets that are loaded already; None: what the weights say, else "D"."""
    weights: WeightsLike | Sequence[WeightsLike] = "published"
    width: float = 1.0
    seed: int = 0
    device: str | None = None
    precision: str = "auto"
    offline: bool | None = None
    fetching: Fetching | None = None

    def load(self) -> list[VGG]:
        """The nets with their weights."""
        from vggfeat.nets.weights import load_nets

        return load_nets(
            self.net,
            self.weights,
            width=self.width,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            offline=self.offline,
            progress=self.fetching,
        )


@dataclass(frozen=True)
class RunOptions:
    """How a run reads images and keeps what it has done; no value changes a result."""

    workers: int | None = None
    """Threads that decode ahead of the net; None: one a core."""
    max_read_failures: int = MAX_READ_FAILURES
    """Images in a row that cannot be read before the run stops; 0: never."""
    progress: Progress | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("`resume` and `overwrite`: choose one")

    @property
    def threads(self) -> int:
        """The number of decoding threads."""
        return self.workers or default_workers()
