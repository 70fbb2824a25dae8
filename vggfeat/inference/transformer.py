"""Images to descriptors as a step of a scikit-learn pipeline."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from vggfeat.datasets import Sample
from vggfeat.errors import ImageError, UsageError
from vggfeat.inference.blocks import blocks_of, describe_blocks
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.settings import DescriptorSettings, Layer
from vggfeat.nets.networks import VGG
from vggfeat.nets.weights import load_net
from vggfeat.store.pooling import Aggregate
from vggfeat.system.launch import default_workers


@dataclass(frozen=True, slots=True)
class _Held(Sample):
    """An image that is in memory already."""

    picture: Any = None

    def source(self) -> Any:
        return self.picture


class VGGFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Images -> dense multi-scale descriptors of unit length (Appendix B), for scikit-learn's Pipeline.

    Nothing is learnt from the images: `fit` checks the settings and loads the net, whose weights are fixed.

    Args:
        net: name in Table 1, or a net from `load_net`.
        weights, width, seed, device, precision, offline: as `load_net` takes them; not for a net that is loaded.
        scales: smallest sides Q in pixels, at least 224.
        aggregate: "stack", "average" or "max" over the scales.
        flip: average with the mirror image.
        layer: "fc7" or "fc6".
        exif: honour the EXIF orientation of files.
        workers: decoding threads; None: one a core.

    Attributes:
        n_features_out_: length D of a descriptor.

    A process that was forked after torch has worked hangs at torch's next product: start workers by "spawn" or
    "forkserver"; joblib's default, loky, is safe.

    References:
        Simonyan and Zisserman, arXiv 1409.1556, Appendix B.
    """

    def __init__(
        self,
        net: str | VGG = "D",
        weights: str | os.PathLike[str] | None = "published",
        *,
        scales: Sequence[int] = (256, 384, 512),
        aggregate: Aggregate = "stack",
        flip: bool = True,
        layer: Layer = "fc7",
        exif: bool = True,
        width: float = 1.0,
        seed: int = 0,
        device: str | None = None,
        precision: str = "auto",
        offline: bool | None = None,
        workers: int | None = None,
    ) -> None:
        self.net = net
        self.weights = weights
        self.scales = scales
        self.aggregate = aggregate
        self.flip = flip
        self.layer = layer
        self.exif = exif
        self.width = width
        self.seed = seed
        self.device = device
        self.precision = precision
        self.offline = offline
        self.workers = workers

    def fit(self, X: Any, y: Any = None) -> VGGFeatures:
        """Checks the settings and loads the net; the images are not looked at. Raises UsageError or WeightsError."""
        extractor = self._extractor()
        self.n_features_out_ = extractor.dim
        extractor.close()
        return self

    def transform(self, X: Iterable[Any]) -> NDArray[np.float32]:
        """(n, D) float32 descriptors.

        Args:
            X: n images, each a path, a Pillow image, or an (H, W, 3) or (H, W) uint8 array with values from 0 to 255
                in RGB or grey; or one (n, H, W, 3) array.

        Raises ImageError for the first image that cannot be used, UsageError where X is one path.
        """
        if isinstance(X, str | os.PathLike | bytes):
            raise UsageError(f"VGGFeatures takes a list of images, not one: [{os.fspath(X)!r}]")
        if isinstance(X, np.ndarray) and X.ndim in (2, 3):
            raise UsageError(f"an array of shape {X.shape} is one image: VGGFeatures takes a list, or (n, H, W, 3)")
        samples = [_sample(position, image) for position, image in enumerate(X)]
        extractor = self._extractor()
        descriptors = np.empty((len(samples), extractor.dim), dtype=np.float32)
        try:
            for rows, described in describe_blocks(extractor, samples, blocks_of(len(samples))):
                for row, reason in described.failures.items():
                    raise ImageError(f"image {rows.start + row} ({samples[rows.start + row].id}): {reason}")
                descriptors[rows.start : rows.stop] = described.descriptors
        finally:
            extractor.close()
        return descriptors

    @property
    def _n_features_out(self) -> int:
        """What scikit-learn's `get_feature_names_out` counts to: `vggfeatures0`, `vggfeatures1`, .."""
        return self.n_features_out_

    def _extractor(self) -> Extractor:
        settings = DescriptorSettings(tuple(self.scales), self.aggregate, self.flip, self.layer, "image", self.exif)
        return Extractor([self._loaded()], settings, workers=self.workers or default_workers())

    def _loaded(self) -> VGG:
        """The net, loaded once for its parameters."""
        if isinstance(self.net, VGG):
            return self.net
        options = {name: getattr(self, name) for name in ("width", "seed", "device", "precision", "offline")}
        key = (self.net, self.weights, *options.values())
        if getattr(self, "_key", None) != key:
            self._net, self._key = load_net(self.net, self.weights, **options), key
        return self._net

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights: a pickled pipeline names them, and loads them when it is used."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_net", "_key")}

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect: images, not rows of numbers, and nothing to fit."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        tags.no_validation = True
        return tags


def _sample(position: int, image: Any) -> Sample:
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return Sample(path, path)
    return _Held(f"{position}", "", picture=image)
