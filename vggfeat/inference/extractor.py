"""Images -> descriptors: scales, flips, regions and nets in the paper's order (Appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.datasets.decoding import Decoded
from vggfeat.errors import UsageError
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.runner import Rescaled, Runner
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.networks import VGG
from vggfeat.store.pooling import Described, aggregated_dim, combine, pool_flips, pool_scales

Means = list[list[Tensor]]
"""By scale the mean activations (n, D_layer) of the pictures and, with flips, of their mirror images."""


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


class Extractor(Runner[list[Means], Described]):
    """Runs one or several nets over samples; several give one stacked descriptor.

    A sample's values do not depend on the others beyond rounding, and the same samples give the same bits again on one
    CPU type.

    Args:
        nets: nets to stack, in order; all at one precision and on one device.
        settings: scales, aggregation, flips, layer, region.
        workers: threads that decode and rescale ahead of the nets.

    Raises UsageError without a net.
    """

    def __init__(self, nets: Sequence[VGG], settings: DescriptorSettings, *, workers: int = 2) -> None:
        if not nets:
            raise UsageError("no net to extract with")
        self.nets = tuple(nets)
        self.settings = settings
        dense = [DenseNet(net, settings.layer) for net in nets]
        regions = ("image", "box") if settings.region == "both" else (settings.region,)
        self._parts = [(net, region) for net in dense for region in regions]
        wanted = [(region, net.filter, Q) for region in regions for net in dense for Q in settings.scales]
        super().__init__(dense, wanted, exif=settings.exif, workers=workers)

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """Length of each part's layer: net by net, region by region."""
        return tuple(net.dim for net, _ in self._parts)

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
            **asdict(self.settings),
        }

    def run(self, rescaled: Sequence[Rescaled]) -> list[Means]:
        """One entry a part."""
        flips = (False, True) if self.settings.flip else (False,)
        work = []
        for net, region in self._parts:
            means = []
            for Q in self.settings.scales:
                batch = [one.pictures[region, net.filter, Q] for one in rescaled]
                means.append([net.pooled(batch, flip=flip)[0] for flip in flips])
            work.append(means)
        return work

    def gather(self, decoded: Decoded, work: list[Means]) -> Described:
        """Descriptors in the samples' order; rows that failed are NaN."""
        parts = [_without_flips(means) for means in work]
        failures = dict(decoded.failures)
        for position in np.flatnonzero(~np.isfinite(np.stack([p.sum((1, 2)) for p in parts]).sum(0))):
            failures[decoded.rows[position]] = "the net's activations are not finite"
        descriptors = np.full((decoded.number, self.dim), np.nan, dtype=np.float32)
        with np.errstate(invalid="ignore"):  # rows that are not finite are among the failures
            descriptors[decoded.rows] = combine(parts, self.settings.aggregate)
        kept = sum(self.layer_dims) * len(self.settings.scales)
        scales = np.full((decoded.number, kept), np.nan, dtype=np.float32)
        scales[decoded.rows] = np.concatenate([pool_scales(part, "stack") for part in parts], axis=1)
        descriptors[list(failures)] = scales[list(failures)] = np.nan
        return Described(descriptors, scales, failures, decoded.unread)


def _without_flips(means: Means) -> NDArray[np.float32]:
    """(n, S, D_layer), flips averaged."""
    views = [[view.cpu().numpy() for view in scale] for scale in means]
    return np.stack([pool_flips(*scale) if len(scale) == 2 else scale[0] for scale in views], axis=1)
