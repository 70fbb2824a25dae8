"""Images -> class posteriors: views, flips, scales and nets averaged as the paper does (Sect. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggfeat.datasets.decoding import Decoded
from vggfeat.datasets.images import Picture
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import unknown_name
from vggfeat.inference.crops import GRID, centre_crop, grid_crops
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.extractor import net_provenance
from vggfeat.inference.runner import Rescaled, Runner
from vggfeat.inference.settings import VIEWS, View
from vggfeat.nets.networks import VGG
from vggfeat.store.choices import POSTERIORS
from vggfeat.store.pooling import Described, check_scales


class Scorer(Runner[Tensor, Described]):
    """Runs one or several nets over samples and averages their soft-max posteriors.

    Crops run through the dense form, which at 224x224 is the classifier form: one copy of the weights, cast once.

    Args:
        nets: all at one precision and on one device.
        scales: for each net its smallest sides Q in pixels, at least 224.
        columns: for each net, which of its outputs is each of the K classes.
        view: "dense": the class score map averaged over the whole image, and over its mirror image's; "crops": 5x5
            crops and their mirror images; "both": the average of these two; "center": the central crop alone.
        exif: honour the EXIF orientation.
        workers: threads that decode and rescale ahead of the nets.
        max_megapixels: images of more million pixels fail.

    Raises UsageError where a value makes no sense.
    """

    def __init__(
        self,
        nets: Sequence[VGG],
        scales: Sequence[tuple[int, ...]],
        columns: Sequence[NDArray[np.intp]],
        *,
        view: View = "dense",
        exif: bool = False,
        workers: int = 2,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        if view not in VIEWS:
            raise unknown_name("view", view, VIEWS)
        for its_scales in scales:
            check_scales(its_scales)
        self.nets, self.view, self.exif = tuple(nets), view, exif
        self.scales = tuple(map(tuple, scales))
        dense = [DenseNet(net, "scores") for net in nets]
        wanted = [("image", net.filter, Q) for net, its in zip(dense, self.scales, strict=True) for Q in its]
        super().__init__(dense, wanted, exif=exif, workers=workers, max_megapixels=max_megapixels)
        self._columns = [torch.from_numpy(its).to(net.device) for its, net in zip(columns, dense, strict=True)]

    @property
    def dim(self) -> int:
        """Number K of classes."""
        return len(self._columns[0])

    def provenance(self) -> dict[str, Any]:
        """Everything that changes a value, as plain data; a file's fingerprint is its hash."""
        return {
            "nets": [
                {**net_provenance(net), "scales": list(its_scales)}
                for net, its_scales in zip(self.nets, self.scales, strict=True)
            ],
            "precision": self._dense[0].precision,
            "scales": sorted({Q for its_scales in self.scales for Q in its_scales}),
            "view": self.view,
            "flip": self.view != "center",
            "aggregate": "average",
            "layer": POSTERIORS,
            "region": "image",
            "exif": self.exif,
        }

    @torch.inference_mode()
    def run(self, rescaled: Sequence[Rescaled]) -> Tensor:
        """(n, K): the mean over the nets of the means over their scales."""
        of_nets = []
        for net, scales, columns in zip(self._dense, self.scales, self._columns, strict=True):
            of_scales = [
                self._at_scale(net, [one.pictures["image", net.filter, Q] for one in rescaled]) for Q in scales
            ]
            of_nets.append(torch.stack(of_scales).mean(0)[:, columns])
        return torch.stack(of_nets).mean(0)

    def gather(self, decoded: Decoded, work: Tensor) -> Described:
        """Rows of posteriors, in place of descriptors; rows that failed are NaN."""
        values = np.full((decoded.number, self.dim), np.nan, dtype=np.float32)
        values[decoded.rows] = work.cpu().numpy()
        failures = dict(decoded.failures)
        for row in decoded.rows:
            if not np.isfinite(values[row]).all():
                failures[row], values[row] = "the net's class scores are not finite", np.nan
        no_scales = np.empty((decoded.number, 0), dtype=np.float32)
        return Described(values, no_scales, failures, decoded.unread)

    def _at_scale(self, net: DenseNet, pictures: Sequence[Picture]) -> Tensor:
        """(n, outputs): one net's posteriors of pictures at one scale."""
        if self.view == "center":
            return net.pooled([centre_crop(picture) for picture in pictures])[0].softmax(1)
        views = {"dense": (_whole,), "crops": (_crops,), "both": (_whole, _crops)}[self.view]
        return torch.stack([view(net, pictures) for view in views]).mean(0)


def _whole(net: DenseNet, pictures: Sequence[Picture]) -> Tensor:
    """Soft-max of the spatially averaged class score map, averaged with the mirror image's: (n, outputs)."""
    return (net.pooled(pictures)[0].softmax(1) + net.pooled(pictures, flip=True)[0].softmax(1)) / 2


def _crops(net: DenseNet, pictures: Sequence[Picture]) -> Tensor:
    """Posteriors averaged over a grid of crops and their mirror images: (n, outputs)."""
    crops = [crop for picture in pictures for crop in grid_crops(picture)]
    return _whole(net, crops).reshape(len(pictures), GRID * GRID, net.dim).mean(1)
