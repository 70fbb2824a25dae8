"""Images -> descriptors: layers, scales, flips, regions and nets in the paper's order (Appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.datasets.decoding import Decoded
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import UsageError
from vggfeat.inference.crops import centre_crop
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.runner import Rescaled, Runner
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.networks import VGG
from vggfeat.store.pooling import Described, aggregated_dim, combine, pool_flips, pool_scales, stack_unit

Pooled = list[list[list[Tensor]]]
"""By scale, view (the pictures and, with flips, their mirror images) and layer: (n, D_layer)."""


def net_provenance(net: VGG) -> dict[str, Any]:
    """What tells one net and its weights from another, as plain data."""
    return {
        "net": net.net,
        "weights": net.weights_name,
        "weights_sha256": net.fingerprint(),
        "width": net.width,
        "preprocessing": asdict(net.preprocessing),
        **({} if net.seed is None else {"seed": net.seed}),
        **({"input_maxima": net.input_maxima} if net.precision == "int8" else {}),
    }


class Extractor(Runner[list[Pooled], Described]):
    """Runs one or several nets over samples; several give one stacked descriptor.

    A sample's values do not depend on the others beyond rounding, and the same samples give the same bits again on one
    CPU type.

    Args:
        nets: nets to stack, in order; all at one precision and on one device.
        settings: layers, scales, aggregation, flips, region.
        workers: threads that decode and rescale ahead of the nets.
        max_megapixels: images of more million pixels fail.

    Raises UsageError without a net.
    """

    def __init__(
        self,
        nets: Sequence[VGG],
        settings: DescriptorSettings,
        *,
        workers: int = 2,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        if not nets:
            raise UsageError("no net to extract with")
        self.nets = tuple(nets)
        self.settings = settings
        dense = [DenseNet(net, settings.layers, pool=settings.pool, pre_relu=settings.pre_relu) for net in nets]
        regions = ("image", "box") if settings.region == "both" else (settings.region,)
        self._runs = [(net, region) for net in dense for region in regions]
        wanted = [(region, net.filter, Q) for region in regions for net in dense for Q in settings.scales]
        super().__init__(dense, wanted, exif=settings.exif, workers=workers, max_megapixels=max_megapixels)

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """Length of each part: layer by layer, of these net by net, region by region."""
        return tuple(net.dims[place] for place in range(len(self.settings.layers)) for net, _ in self._runs)

    @property
    def dim(self) -> int:
        """Length D of a descriptor."""
        settings = self.settings
        return sum(aggregated_dim(dim, len(settings.scales), settings.aggregate) for dim in self.layer_dims)

    def provenance(self) -> dict[str, Any]:
        """Everything that changes a value, as plain data; a descriptor file's fingerprint is its hash."""
        return {
            "nets": [net_provenance(net) for net in self.nets],
            "precision": self._dense[0].precision,
            **self.settings.recorded(),
        }

    def run(self, rescaled: Sequence[Rescaled]) -> list[Pooled]:
        """One entry a net and region."""
        flips = (False, True) if self.settings.flip else (False,)
        work = []
        for net, region in self._runs:
            pooled = []
            for Q in self.settings.scales:
                batch = [one.pictures[region, net.filter, Q] for one in rescaled]
                if self.settings.view == "center":
                    batch = [centre_crop(picture) for picture in batch]
                pooled.append([net.pooled(batch, flip=flip) for flip in flips])
            work.append(pooled)
        return work

    def gather(self, decoded: Decoded, work: list[Pooled]) -> Described:
        """Descriptors in the samples' order; rows that failed are NaN."""
        settings = self.settings
        layers = [[_without_flips(pooled, place) for pooled in work] for place in range(len(settings.layers))]
        parts = [part for parts in layers for part in parts]
        failures = dict(decoded.failures)
        for position in np.flatnonzero(~np.isfinite(np.stack([p.sum((1, 2)) for p in parts]).sum(0))):
            failures[decoded.rows[position]] = "the net's activations are not finite"

        def rows_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
            rows = np.full((decoded.number, values.shape[1]), np.nan, dtype=np.float32)
            rows[decoded.rows] = values
            rows[list(failures)] = np.nan
            return rows

        raw = settings.normalise == "none"
        with np.errstate(invalid="ignore"):  # rows that are not finite are among the failures
            of_layers = [combine(parts, settings.aggregate, raw=raw) for parts in layers]
        scales = rows_of(np.concatenate([pool_scales(part, "stack") for part in parts], axis=1))
        descriptors = rows_of(of_layers[0] if len(layers) == 1 else np.concatenate(of_layers, axis=1))
        if len(layers) == 1:
            return Described(descriptors, scales, failures, decoded.unread)
        stacked = descriptors if raw else rows_of(stack_unit(of_layers))
        return Described(stacked, scales, failures, decoded.unread, by_layer=descriptors)


def _without_flips(pooled: Pooled, layer: int) -> NDArray[np.float32]:
    """(n, S, D_layer) of one layer, flips averaged."""
    views = [[view[layer].cpu().numpy() for view in scale] for scale in pooled]
    return np.stack([pool_flips(*scale) if len(scale) == 2 else scale[0] for scale in views], axis=1)
