"""Images -> descriptors: decoding, scales, flips, regions and nets in the paper's order (Appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.datasets import Sample, images
from vggfeat.datasets.decoding import Decoded, Decoders, collected
from vggfeat.errors import ImageError, UsageError, unknown_name
from vggfeat.inference.dense import DenseNet
from vggfeat.nets.networks import VGG
from vggfeat.store.pooling import (
    AGGREGATES,
    Aggregate,
    Described,
    aggregated_dim,
    check_scales,
    combine,
    pool_flips,
    pool_scales,
)

Region = Literal["image", "box", "both"]
REGIONS: tuple[Region, ...] = ("image", "box", "both")


@dataclass(frozen=True)
class DescriptorSettings:
    """What a descriptor is made of, apart from the nets. Raises UsageError where a value makes no sense."""

    scales: tuple[int, ...] = (256, 384, 512)
    """Smallest sides Q in pixels, at least 224."""
    aggregate: Aggregate = "stack"
    flip: bool = True
    layer: Literal["fc6", "fc7"] = "fc7"
    region: Region = "image"
    """The whole image, the sample's box, or both stacked (VOC action, Appendix B)."""
    exif: bool = True
    """Honour the EXIF orientation: for users' own pictures; the benchmarks' protocols ignored it."""

    def __post_init__(self) -> None:
        check_scales(self.scales)
        for kind, value, valid in (
            ("aggregation", self.aggregate, AGGREGATES),
            ("layer", self.layer, ("fc6", "fc7")),
            ("region", self.region, REGIONS),
        ):
            if value not in valid:
                raise unknown_name(kind, value, valid)


def net_provenance(net: VGG) -> dict[str, Any]:
    """What tells one net and its weights from another, as plain data."""
    return {
        "net": net.net,
        "weights": net.weights_name,
        "weights_sha256": net.fingerprint(),
        "width": net.width,
        "preprocessing": asdict(net.preprocessing),
        **({} if net.seed is None else {"seed": net.seed}),
    }


class Extractor:
    """Runs one or several nets over samples.

    A sample's values do not depend on the others beyond rounding, and calling it again with the same samples gives
    the same bits on one CPU type.

    Args:
        nets: nets to stack, in order; all at one precision and on one device.
        settings: scales, aggregation, flips, layer, region.
        workers: threads that decode and rescale ahead of the net.
    """

    def __init__(self, nets: Sequence[VGG], settings: DescriptorSettings, *, workers: int = 2) -> None:
        if not nets:
            raise UsageError("no net to extract with")
        self.nets = tuple(nets)
        self.settings = settings
        self._dense = [DenseNet(net, settings.layer) for net in nets]
        self._regions: tuple[Literal["image", "box"], ...] = (
            ("image", "box") if settings.region == "both" else (settings.region,)
        )
        # Nets whose weights share a rescaling filter share the rescaled pictures.
        self._filters = tuple(dict.fromkeys(dense.filter for dense in self._dense))
        self._pool = Decoders(workers)

    @property
    def in_background(self) -> bool:
        """Whether `start` returns before the nets are done."""
        return self._dense[0].device.type == "cuda"

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """Length of each part's layer."""
        return tuple(dense.dim for dense in self._dense for _ in self._regions)

    @property
    def dim(self) -> int:
        """Length D of a descriptor."""
        settings = self.settings
        return sum(aggregated_dim(dim, len(settings.scales), settings.aggregate) for dim in self.layer_dims)

    def provenance(self) -> dict[str, Any]:
        """Everything that changes a value, as plain data: the ground of a descriptor file's fingerprint."""
        return {
            "nets": [net_provenance(net) for net in self.nets],
            "precision": self._dense[0].precision,
            **asdict(self.settings),
        }

    def prepare(self, samples: Sequence[Sample]) -> list[Future[_Prepared]]:
        """Starts decoding and rescaling in the background; `finish` takes what this returns."""
        return [self._pool.submit(self._prepare, sample) for sample in samples]

    def describe(self, samples: Sequence[Sample]) -> Described:
        """Descriptors of these samples, in their order."""
        return self.finish(self.prepare(samples))

    def finish(self, prepared: Sequence[Future[_Prepared]]) -> Described:
        """Runs the nets over pictures that `prepare` has started on."""
        return self.collect(self.start(prepared))

    def start(self, prepared: Sequence[Future[_Prepared]]) -> Running:
        """Gives the nets their work, which a GPU then does in the background; `collect` takes what this returns."""
        decoded, pictures = collected(prepared)
        return Running(
            decoded, [self._means(dense, region, pictures) for dense in self._dense for region in self._regions]
        )

    def collect(self, running: Running) -> Described:
        """The descriptors that `start` began."""
        parts = [_pooled(means) for means in running.means]
        decoded = running.decoded
        failures = dict(decoded.failures)
        for position in np.flatnonzero(~np.isfinite(np.stack([p.sum((1, 2)) for p in parts]).sum(0))):
            failures[decoded.rows[position]] = "the net's activations are not finite"
        gathered = self._gather(decoded.number, decoded.rows, parts, failures)
        return replace(gathered, unread=decoded.unread)

    def close(self) -> None:
        """Ends the decoding threads."""
        self._pool.end()

    def _prepare(self, sample: Sample) -> _Prepared:
        picture = images.decode(sample.source(), exif=self.settings.exif)
        regions = {region: _cut(picture, sample, region) for region in self._regions}
        return {
            (region, filter, Q): images.rescale(part, Q, filter)
            for region, part in regions.items()
            for filter in self._filters
            for Q in self.settings.scales
        }

    def _means(self, dense: DenseNet, region: str, pictures: Sequence[_Prepared]) -> _Means:
        """One net on one region of each picture."""
        flips = (False, True) if self.settings.flip else (False,)
        per_scale = []
        for Q in self.settings.scales:
            batch = [picture[region, dense.filter, Q] for picture in pictures]
            per_scale.append([dense.means(batch, flip=flip) for flip in flips])
        return per_scale

    def _gather(self, n: int, rows: list[int], parts: list[NDArray[np.float32]], failures: dict[int, str]) -> Described:
        """Aggregates, normalises and stacks the parts into rows of n; failed rows are NaN."""
        descriptors = np.full((n, self.dim), np.nan, dtype=np.float32)
        with np.errstate(invalid="ignore"):  # rows that are not finite have failed by name already
            descriptors[rows] = combine(parts, self.settings.aggregate)
        scales = np.full((n, sum(self.layer_dims) * len(self.settings.scales)), np.nan, dtype=np.float32)
        scales[rows] = np.concatenate([pool_scales(part, "stack") for part in parts], axis=1)
        descriptors[list(failures)] = scales[list(failures)] = np.nan
        return Described(descriptors, scales, failures)


_Prepared = dict[tuple[str, str, int], images.Picture]
"""One sample's rescaled pictures by (region, filter, Q)."""

_Means = list[list[Tensor]]
"""By scale the mean activations (n, D_layer) of the pictures and, with flips, of their mirror images."""


@dataclass(frozen=True)
class Running:
    """Work that the nets were given; on a GPU perhaps still being done."""

    decoded: Decoded
    means: list[_Means]
    """One a part: net by net, region by region."""


def _pooled(means: _Means) -> NDArray[np.float32]:
    """(n, S, D_layer), flips averaged."""
    views = [[view.cpu().numpy() for view in scale] for scale in means]
    return np.stack([pool_flips(*scale) if len(scale) == 2 else scale[0] for scale in views], axis=1)


def _cut(picture: images.RGBImage, sample: Sample, region: Literal["image", "box"]) -> images.RGBImage:
    if region == "image":
        return picture
    if sample.box is None:
        raise ImageError("has no box: --region box needs a data set of boxes, such as voc2012-action")
    return images.crop(picture, sample.box)
