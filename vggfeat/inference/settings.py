"""What extraction, evaluation and localisation are told: choices and settings, checked. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from vggfeat.datasets.outage import MAX_READ_FAILURES
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import UsageError, unknown_name
from vggfeat.nets.catalog import STRIDE
from vggfeat.nets.layers import HIDDEN, LAYERS, POOLING_MARK, check_layers, has_relu, without_pooling
from vggfeat.nets.preprocessing import Preprocessing, preprocessing_of
from vggfeat.nets.sources import check_weights, named_net, not_a_net, paired
from vggfeat.store.choices import AGGREGATES, LAYER_SEPARATOR, Aggregate
from vggfeat.store.pooling import as_scales, check_scales
from vggfeat.store.provenance import LATER
from vggfeat.system.arguments import checked_flags
from vggfeat.system.bars import Fetching, Progress
from vggfeat.system.launch import default_workers
from vggfeat.system.numbers import number_of
from vggfeat.system.values import one_of, real, whole

if TYPE_CHECKING:
    from vggfeat.nets.networks import VGG

    NetLike = str | VGG

WeightsLike = str | os.PathLike[str] | None
PreprocessingLike = str | os.PathLike[str] | Preprocessing | None
RecordedWeights = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""What stands in for the weights that a file records: one name or file, or one for each net; empty: the recorded."""

Pooling = Literal["avg", "max", "gem", "none"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""How a map becomes a vector: mean over positions, maximum, generalised mean, or the whole map in the order C, H, W."""

GEM_POWER = 3.0
"""p of the generalised mean (mean of x^p)^(1/p) (Radenovic et al., "Fine-tuning CNN Image Retrieval", 2018)."""


def with_pooling(layer: str, usual: Pooling) -> tuple[str, Pooling]:
    """A layer's name and its pooling: ("pool5", "max") for "pool5:max", the usual pooling for "pool5".

    Raises UsageError for an unknown pooling.
    """
    name, mark, own = layer.partition(POOLING_MARK)
    pooling = own if mark else usual
    if pooling not in POOLINGS:
        raise unknown_name("pooling", pooling, POOLINGS)
    return name, pooling


Region = Literal["image", "box", "both"]
REGIONS: tuple[Region, ...] = get_args(Region)

Normalisation = Literal["l2", "none"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
"""Unit L2 length, or the raw values."""

DescriptorView = Literal["dense", "center"]
DESCRIPTOR_VIEWS: tuple[DescriptorView, ...] = get_args(DescriptorView)
"""The whole image, or the central 224x224 crop alone."""

View = Literal["dense", "crops", "both", "center"]
VIEWS: tuple[View, ...] = get_args(View)

ScaleRule = Literal["single", "multi"]
SCALE_RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)

LocalisationProtocol = Literal["1", "2"]
PROTOCOLS: tuple[LocalisationProtocol, ...] = get_args(LocalisationProtocol)

Scales = int | Sequence[int] | Sequence[Sequence[int]]
"""One or several smallest sides Q in pixels for all nets, or a list of them for each net."""

LocalisedSubset = Literal["val", "test"]
LOCALISED_SUBSETS: tuple[LocalisedSubset, ...] = get_args(LocalisedSubset)
"""Parts of ILSVRC that `localise` takes."""


def scales_of_nets(scales: Scales, nets: int) -> list[tuple[int, ...]]:
    """The smallest sides of each of `nets` nets. Raises UsageError where they make no sense."""
    given: Sequence[Any] = scales if isinstance(scales, Sequence) and not isinstance(scales, str) else [scales]
    several = any(isinstance(one, Sequence) for one in given)
    lists = [as_scales(one) for one in given] if several else [as_scales(scales)]  # type: ignore[arg-type]
    for one in lists:
        check_scales(one)
    if len(lists) not in (1, nets):
        what = number_of(len(lists), "list of scales", "lists of scales")
        raise UsageError(f"{what} for {number_of(nets, 'net')}: give one for all, or one for each net")
    return lists * nets if len(lists) == 1 else lists


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What may be chosen where new images are described as a file records."""

    exif: bool | None = None
    """Apply the EXIF orientation; None: as recorded, if the records are of a user's own pictures, else as for the new
    images, because a benchmark's record says nothing of other pictures."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Images of more million pixels fail."""
    weights: Sequence[str] = ()
    """Names or files in place of the recorded ones, one a net in their order; the hash must be the same."""
    seed: int | None = None
    """Of nets with random weights; None is the recorded one."""
    device: str | None = None
    """As `load_net` takes it."""
    precision: str | None = None
    """As `load_net` takes it; None is the recorded one."""
    offline: bool | None = None
    """As `load_net` takes it."""
    workers: int = 2
    """Decoding threads of each extractor."""


def in_place_of_recorded(weights: RecordedWeights | None) -> list[str]:
    """The names or files that stand in for recorded weights, as text: one, several or none."""
    if isinstance(weights, str | os.PathLike):
        return [os.fspath(weights)]
    return [os.fspath(name) for name in weights or ()]


@dataclass(frozen=True)
class DescriptorSettings:
    """What a descriptor is made of, apart from the nets. Raises UsageError where a value makes no sense."""

    scales: tuple[int, ...] = (256, 384, 512)
    """Smallest sides Q in pixels, at least 224, or 32 if no layer is after pool5."""
    aggregate: Aggregate = "stack"
    flip: bool = True
    layers: tuple[str, ...] = ("fc7",)
    """Layers to describe with, each kept under its name; "pool5:max" gives a layer a pooling that the others lack."""
    region: Region = "image"
    """The whole image, the sample's box, or both stacked (VOC action, Appendix B)."""
    exif: bool = True
    """Honour the EXIF orientation: for users' own pictures; the benchmarks' protocols ignored it."""
    pool: Pooling = "avg"
    view: DescriptorView = "dense"
    pre_relu: bool = False
    """Values before the layer's ReLU."""
    normalise: Normalisation = "l2"

    def __post_init__(self) -> None:
        plain: dict[str, Any] = {**checked_flags(flip=self.flip, exif=self.exif, pre_relu=self.pre_relu)}
        if self.view == "center":
            check_scales(self.scales, what="the central crop")
        elif self.has_head:
            check_scales(self.scales)
        else:
            check_scales(self.scales, STRIDE, "layers up to pool5")
        names: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("aggregate", "aggregation", AGGREGATES),
            ("region", "region", REGIONS),
            ("pool", "pooling", POOLINGS),
            ("view", "view", DESCRIPTOR_VIEWS),
            ("normalise", "normalisation", NORMALISATIONS),
        )
        plain |= {name: one_of(kind, getattr(self, name), valid) for name, kind, valid in names}
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        for layer in self.layers:
            one_of("layer", without_pooling(layer), LAYERS)
        if not self.layers:
            raise UsageError("no layer: name at least one, such as fc7")
        if len(set(self.layers)) < len(self.layers):
            raise UsageError(f"layers {', '.join(self.layers)}: one is named twice")
        poolings = {with_pooling(layer, self.pool)[1] for layer in self.layers}
        if "none" in poolings and self.view != "center":
            raise UsageError(
                "`pool=none` keeps the map of one 224x224 crop, whose length is fixed: it goes with `view=center`"
            )
        without = next((layer for layer in self.layers if not has_relu(layer)), None)
        if self.pre_relu and without is not None:
            raise UsageError(f"{without} has no ReLU, so no values before it: leave `pre_relu` out")
        if self.pre_relu and "gem" in poolings:
            raise UsageError(
                "`pool=gem` takes values that are not negative, which `pre_relu` does not give: choose one"
            )

    @property
    def has_head(self) -> bool:
        """Whether a fully-connected layer is among the layers."""
        return any(without_pooling(layer) in HIDDEN for layer in self.layers)

    def recorded(self) -> dict[str, Any]:
        """Everything here that changes a value, as plain data; settings of later versions only where they are used.

        Files without them keep their meaning, and their fingerprint.
        """
        record = {
            "scales": self.scales,
            "aggregate": self.aggregate,
            "flip": self.flip,
            "layer": LAYER_SEPARATOR.join(self.layers),
            "region": self.region,
            "exif": self.exif,
        }
        usual = DescriptorSettings()
        changed = {name: getattr(self, name) for name in LATER if getattr(self, name) != getattr(usual, name)}
        return record | changed

    @classmethod
    def of(cls, record: Mapping[str, Any], exif: bool) -> DescriptorSettings:
        """The settings of a record, with another treatment of EXIF orientation."""
        return cls(
            scales=tuple(record["scales"]),
            aggregate=record["aggregate"],
            flip=record["flip"],
            layers=tuple(record["layer"].split(LAYER_SEPARATOR)),
            region=record["region"],
            exif=exif,
            **{name: record[name] for name in LATER if name in record},
        )


@dataclass(frozen=True)
class NetChoice:
    """Which nets to run, and on what; see `load_net` for the values."""

    net: NetLike | Sequence[NetLike] | None = None
    """Names of Table 1, or nets that are loaded already; None: what the weights say, else "D"."""
    weights: WeightsLike | Sequence[WeightsLike] = "published"
    width: float | None = None
    seed: int = 0
    device: str | None = None
    precision: str = "auto"
    offline: bool | None = None
    fetching: Fetching | None = None
    preprocessing: PreprocessingLike | Sequence[PreprocessingLike] = None
    """What the weights expect of an image, one for all nets or one each; None: what the weights say."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole("seed", self.seed))
        if self.width is not None:
            object.__setattr__(self, "width", real("width", self.width))

    def check_names(self, layers: Sequence[str] = ()) -> None:
        """Raises UsageError for a name that is not in Table 1, and for layers that a named net does not have.

        So too for what is about nets that are still to be loaded, beside one that is. Reads and fetches nothing, and
        imports no torch.
        """
        if not self._nets:
            raise UsageError("no net: name at least one, such as D")
        for one in self._nets:
            if not isinstance(one, str | os.PathLike | None) and not hasattr(one, "preprocessing"):
                raise not_a_net(one)
        if self.net is not None and self.only_loaded_nets:
            self._check_left_out()
        for name in self._nets:
            if isinstance(name, str | os.PathLike):
                check_layers(named_net(name), layers)

    @property
    def _nets(self) -> Sequence[Any]:
        return self.net if isinstance(self.net, list | tuple) else [self.net]

    @property
    def only_loaded_nets(self) -> bool:
        """Whether every net is loaded already."""
        return not any(isinstance(one, str | os.PathLike | None) for one in self._nets)

    def _check_left_out(self) -> None:
        """Raises UsageError for what would change nothing: a loaded net keeps its own weights and number format."""
        usual = NetChoice()
        for name in ("weights", "width", "seed", "precision", "preprocessing"):
            given = getattr(self, name)
            own = name in ("precision", "width") and all(getattr(net, name) == given for net in self._nets)
            if given not in (None, getattr(usual, name)) and not own:
                raise UsageError(f"a net that is loaded has its own `{name}`: leave it out, or give it to load_net")
        if self.device is not None:
            self._check_device()

    def _check_device(self) -> None:
        """Raises UsageError for another device than that of a loaded net."""
        from vggfeat.system.devices import resolve_device

        asked = resolve_device(self.device)
        for net in self._nets:
            its = next(net.parameters()).device
            if its.type != asked.type or asked.index not in (None, its.index):
                raise UsageError(f"a net that is loaded is on its own device, {its}: move it by net.to({str(asked)!r})")

    @property
    def has_loaded_nets(self) -> bool:
        """Whether a net is loaded already, with a precision of its own."""
        return not all(isinstance(one, str | os.PathLike | None) for one in self._nets)

    def check_weights(self) -> None:
        """Raises `load_net`'s error for weights or a preprocessing that do not exist or do not fit; imports no torch.

        DownloadError is for published weights that are not in the cache where fetching is forbidden.
        """
        for name, weights in zip(*paired(self.net, self.weights), strict=True):
            if name is None or isinstance(name, str):  # a loaded net has its weights
                check_weights(name, weights, self.width, self.offline)
        several = isinstance(self.preprocessing, list | tuple)
        expected: Sequence[Any] = self.preprocessing if several else [self.preprocessing]  # type: ignore[assignment]
        for one in expected:
            if one is not None:
                preprocessing_of(one)

    def load(self, layers: Sequence[str] = ()) -> list[VGG]:
        """The nets with their weights; layers that a net does not have are refused before anything is fetched."""
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
            preprocessing=self.preprocessing,
            layers=layers,
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
        for name in ("workers", "max_read_failures"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name)))
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"`workers` {self.workers} is not 1 or more")
        if self.max_read_failures < 0:
            raise UsageError(f"`max_read_failures` {self.max_read_failures} is not 0 or more")

    @property
    def threads(self) -> int:
        """The number of decoding threads."""
        return default_workers() if self.workers is None else self.workers
