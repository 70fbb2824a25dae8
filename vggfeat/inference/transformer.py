"""Images to descriptors as a step of a scikit-learn pipeline."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from vggfeat.datasets import Sample
from vggfeat.errors import ImageError
from vggfeat.inference.blocks import describe_blocks
from vggfeat.inference.calibration import calibrate
from vggfeat.inference.dense import lengths
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.image_lists import samples_of
from vggfeat.inference.settings import (
    DescriptorSettings,
    DescriptorView,
    NetChoice,
    Normalisation,
    Pooling,
    PreprocessingLike,
    RunOptions,
)
from vggfeat.nets.catalog import WEIGHTS_NAMES
from vggfeat.nets.networks import VGG
from vggfeat.nets.weights import load_net
from vggfeat.store.pooling import Aggregate, as_scales
from vggfeat.system.bars import Bar, on_screen
from vggfeat.system.files import is_file
from vggfeat.system.values import several


class VGGFeatures(TransformerMixin, BaseEstimator):
    """Images -> dense multi-scale descriptors (Appendix B), for scikit-learn's Pipeline.

    Nothing is learnt from the images: `fit` checks the settings and loads the net, whose weights are fixed. Only at
    precision "int8" it looks at 32 of them, which set the steps of 8 bits.

    Args:
        net: name in Table 1, or a net from `load_net`.
        weights, preprocessing, width, seed, device, precision, offline: as `load_net` takes them; not for a net that is
            loaded.
        scales: smallest sides Q in pixels, at least 224, or 32 if no layer is after pool5.
        aggregate: "stack", "average" or "max" over the scales.
        flip: average with the mirror image.
        layer: "conv1_1" to "pool5", "fc6" or "fc7", or with a pooling "pool5:max"; several are stacked, each at unit
            length.
        pool: "avg", "max" or "gem" over the positions of a layer's map, or "none", the whole map (view "center").
        view: "dense", the whole image, or "center", the central 224x224 crop of each scale.
        pre_relu: values before the layer's ReLU.
        normalise: "l2", unit length, or "none", the raw values.
        exif: honour the EXIF orientation of files.
        workers: decoding threads; None: one a core.
        progress: show a bar on terminals and in notebooks.

    Attributes:
        n_features_out_: length D of a descriptor.
        input_maxima_: at precision "int8" the largest value that reached each layer.

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
        layer: str | Sequence[str] = "fc7",
        pool: Pooling = "avg",
        view: DescriptorView = "dense",
        pre_relu: bool = False,
        normalise: Normalisation = "l2",
        exif: bool = True,
        preprocessing: PreprocessingLike = None,
        width: float | None = None,
        seed: int = 0,
        device: str | None = None,
        precision: str = "auto",
        offline: bool | None = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> None:
        self.net = net
        self.weights = weights
        self.scales = scales
        self.aggregate = aggregate
        self.flip = flip
        self.layer = layer
        self.pool = pool
        self.view = view
        self.pre_relu = pre_relu
        self.normalise = normalise
        self.exif = exif
        self.preprocessing = preprocessing
        self.width = width
        self.seed = seed
        self.device = device
        self.precision = precision
        self.offline = offline
        self.workers = workers
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> VGGFeatures:
        """Checks the settings and loads the net. Raises UsageError or WeightsError."""
        stamp = _stamp(self.weights)
        if getattr(self, "_read", None) != stamp:  # another file has that name since
            self._read = stamp
            self.__dict__.pop("_key", None)
        net = self._loaded()
        if net.precision == "int8":
            self._calibrate(net, samples_of(X, self.exif))
        extractor = self._extractor()
        self.n_features_out_ = extractor.dim
        self._shape = net.spec, net.width  # names need no weights, which a pickle leaves out
        extractor.close()
        return self

    def fit_transform(self, X: Iterable[Any], y: Any = None) -> NDArray[np.float32]:
        """(n, D) float32 descriptors; see `transform`. X may be an iterator: it is read once."""
        samples = samples_of(X, self.exif)
        found: NDArray[np.float32] = self.fit(samples).transform(samples)
        return found

    def transform(self, X: Iterable[Any]) -> NDArray[np.float32]:
        """(n, D) float32 descriptors.

        Args:
            X: n images, each a path, a Pillow image, or an (H, W, 3), (H, W) or (H, W, 1) uint8 array with values from
                0 to 255 in RGB or grey; or one (n, H, W, 3), (n, H, W, 1) or (n, H, W) array; an (n, 1) array of
                paths; or a Dataset, or its samples.

        Raises ImageError for the first image that cannot be used, UsageError where X is not clearly a list of images:
        one path or picture, or an array that has two readings.
        """
        samples = samples_of(X, self.exif)
        extractor = self._extractor()
        descriptors = np.empty((len(samples), extractor.dim), dtype=np.float32)
        try:
            with Bar("VGGFeatures", shown=self.progress and on_screen()) as bar:
                for rows, described in describe_blocks(extractor, samples):
                    for row, reason in described.failures.items():
                        raise ImageError(f"image {rows.start + row} ({samples[rows.start + row].id}): {reason}")
                    descriptors[rows.start : rows.stop] = described.descriptors
                    bar.tick(rows.stop, len(samples))
        finally:
            extractor.close()
        return descriptors

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """(D,) names: layer, smallest side where scales are stacked, number: "fc7_256_0" or "fc7_0".

        `input_features` is scikit-learn's own and says nothing of images.
        """
        check_is_fitted(self, "n_features_out_")
        stacked, scales = self.aggregate == "stack", as_scales(self.scales)
        layers = self._settings().layers  # as `transform` takes them, which may have been set since
        return np.array(
            [
                f"{layer}_{Q}_{number}" if stacked else f"{layer}_{number}"
                for layer, dim in zip(layers, lengths(*self._shape, layers, self.pool), strict=True)
                for Q in (scales if stacked else scales[:1])
                for number in range(dim)
            ],
            dtype=object,
        )

    def _extractor(self) -> Extractor:
        return Extractor([self._loaded()], self._settings(), workers=RunOptions(self.workers).threads)

    def _calibrate(self, net: VGG, samples: Sequence[Sample]) -> None:
        settings = self._settings()
        if net is not self.net:  # which a caller may have calibrated
            net.input_maxima = None
        calibrate([net], samples, settings.scales, head=settings.has_head, exif=settings.exif)
        self.input_maxima_ = net.input_maxima

    def _settings(self) -> DescriptorSettings:
        layers = several("layer", self.layer)
        return DescriptorSettings(
            as_scales(self.scales),
            self.aggregate,
            self.flip,
            layers,
            exif=self.exif,
            pool=self.pool,
            view=self.view,
            pre_relu=self.pre_relu,
            normalise=self.normalise,
        )

    def _loaded(self) -> VGG:
        """The net, loaded once for its parameters."""
        names = ("preprocessing", "width", "seed", "device", "precision", "offline")
        options = {name: getattr(self, name) for name in names}
        if isinstance(self.net, VGG):
            NetChoice(self.net, self.weights, **options).check_names()
            return self.net
        key = (self.net, self.weights, *options.values())
        if getattr(self, "_key", None) != key:
            self._net, self._key = load_net(self.net, self.weights, **options, progress=self.progress), key
            self._net.input_maxima = getattr(self, "input_maxima_", None)
        return self._net

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights: a pickled pipeline names them, and loads them when it is used."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_net", "_key", "_read")}

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect: images, not rows of numbers, and nothing to fit."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        tags.no_validation = True
        return tags

    def _more_tags(self) -> dict[str, Any]:  # the same, before scikit-learn 1.6
        return {"X_types": ["string"], "requires_fit": False, "no_validation": True, "stateless": True}


def _stamp(weights: Any) -> tuple[int, ...]:
    """What tells a weights file from another one of its name; () for published and random weights."""
    if weights is None or str(weights) in WEIGHTS_NAMES or not is_file(weights):
        return ()
    found = os.stat(weights)  # noqa: PTH116 - also takes a str
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
