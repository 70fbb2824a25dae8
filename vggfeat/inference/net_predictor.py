"""New images through a trained net: class probabilities by the dense rule of Sect. 3.2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vggfeat.datasets import Sample
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import ModelError
from vggfeat.inference.blocks import describe_blocks
from vggfeat.inference.prediction import Prediction
from vggfeat.inference.scales import scales_for, training_scale
from vggfeat.inference.scorer import Scorer
from vggfeat.inference.settings import PreprocessingLike
from vggfeat.nets.weights import load_net

UNKNOWN_SCALE = (256, 256)
"""Training scale of weights that do not record theirs."""


class NetPredictor:
    """Loads a trained net, then gives images their class probabilities.

    The class scores are averaged over the whole image and its mirror image (dense), at the net's training scale, or
    the middle of its range.

    Args:
        net: a checkpoint that `train` wrote, or torchvision's .pth.
        exif: honour the EXIF orientation, as for users' own pictures.
        device, precision: as `load_net` takes them; None is "auto".
        preprocessing: what the weights expect of an image, as `load_net` takes it; None is what the file says.
        workers: decoding threads.
        max_megapixels: images of more million pixels fail.

    Raises ModelError for a net that learned boxes, UsageError for a missing file or a net without fully-connected
    layers.
    """

    def __init__(
        self,
        net: str | Path,
        *,
        exif: bool = True,
        device: str | None = None,
        precision: str | None = None,
        preprocessing: PreprocessingLike = None,
        workers: int = 2,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        loaded = load_net(None, net, device=device, precision=precision or "auto", preprocessing=preprocessing)
        recipe = loaded.training_record.get("recipe")
        if isinstance(recipe, dict) and recipe.get("task") == "localise":
            raise ModelError(f"{net}: this net predicts boxes, not classes: give a net trained with `task=classify`")
        classes = loaded.dim("scores")
        self.class_names = loaded.class_names or tuple(map(str, range(classes)))
        """The net's own names, or the classes' numbers from 0."""
        S = training_scale(loaded.weights_name, loaded.training_record) or UNKNOWN_SCALE
        self._scorer = Scorer(
            [loaded],
            [scales_for(S, "single")],
            [np.arange(classes)],
            exif=exif,
            workers=workers,
            max_megapixels=max_megapixels,
        )

    def predict(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """The predictions of these images, in their order, block by block."""
        for rows, found in describe_blocks(self._scorer, samples):
            for place, row in enumerate(rows):
                failed = place in found.failures
                descriptor = None if failed else found.descriptors[place]
                yield Prediction(samples[row].id, descriptor, found.failures.get(place, ""))

    def close(self) -> None:
        """Ends the decoding threads."""
        self._scorer.close()
