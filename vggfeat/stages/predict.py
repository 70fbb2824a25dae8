"""New images through a fitted model, described as its descriptors were, or through a trained net -> scores."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vggfeat.classifiers.model_file import Model, read_model
from vggfeat.datasets import Dataset, Sample
from vggfeat.datasets.folder import Images, as_dataset
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import ModelError, UsageError
from vggfeat.inference.blocks import blocks_of, describe_blocks
from vggfeat.inference.prediction import Prediction, is_net
from vggfeat.inference.settings import Overrides, PreprocessingLike, RecordedWeights, RunOptions, in_place_of_recorded
from vggfeat.page.commands import fit_command, with_probabilities
from vggfeat.store.pooling import Described, stack_unit
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Bar, Progress, callback, checked_progress, on_screen
from vggfeat.system.files import folder_error, is_file, no_file

if TYPE_CHECKING:  # torch, which a wrong model file is told without
    from vggfeat.inference.net_predictor import NetPredictor


class Predictor:
    """Loads what a model needs, then scores images.

    Args:
        model: a file that `svm` wrote (`output`).
        probabilities: give class probabilities in place of scores.
        images: the new images, whose orientation may count.
        overrides: what is chosen in place of the model's record.

    Raises ModelError where the weights are not those that the descriptors were made with, or for a model without the
    probabilities that are asked for.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        probabilities: bool = False,
        images: Dataset | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        self.path = Path(model)
        self.model: Model = read_model(model)
        self.class_names = self.model.class_names
        if probabilities and self.model.sigmoids is None:
            raise self._uncalibrated()
        self._scores = self.model.probabilities if probabilities else self.model.scores
        dataset = str(self.model.record.get("dataset", ""))
        from vggfeat.inference.recorded import recorded_extractors

        self._extractors = recorded_extractors(
            self.path,
            self.model.inputs,
            dataset=dataset,
            namings=self.model.namings,
            images=images,
            overrides=overrides,
        )

    def _uncalibrated(self) -> ModelError:
        message = f"{self.path} gives no class probabilities, because it was fitted without `probabilities`"
        recorded = self.model.record.get("command")
        if not isinstance(recorded, str):
            return ModelError(message)
        command = fit_command(with_probabilities(recorded), str(self.path))
        return ModelError(message, advice="make_again", command=command)

    def predict(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """The predictions of these images, in their order, block by block.

        Raises ModelError for images without boxes where the model was fitted on persons' boxes.
        """
        region = next((one["region"] for one in self.model.inputs if one["region"] != "image"), None)
        if region is not None and any(sample.box is None for sample in samples):
            raise ModelError(
                f"{self.path} was fitted on persons' boxes (`region={region}`), which these images do not have: "
                "give `dataset=voc2012-action`, or fit on descriptors of `region=image`"
            )
        blocks = blocks_of(len(samples))
        for parts in zip(*(describe_blocks(one, samples, blocks) for one in self._extractors), strict=True):
            rows = parts[0][0]
            yield from self._block(samples[rows.start : rows.stop], [described for _, described in parts])

    def _block(self, samples: Sequence[Sample], described: Sequence[Described]) -> Iterator[Prediction]:
        failures = {row: reason for one in reversed(described) for row, reason in one.failures.items()}
        rows = [row for row in range(len(samples)) if row not in failures]
        scores = self._scores(stack_unit([one.descriptors[rows] for one in described]))
        given = iter(scores)
        for row, sample in enumerate(samples):
            if row in failures:
                yield Prediction(sample.id, None, failures[row])
            else:
                yield Prediction(sample.id, next(given))

    def close(self) -> None:
        """Ends the decoding threads."""
        for extractor in self._extractors:
            extractor.close()


class Predictions(Iterator[tuple[Prediction, tuple[str, ...]]]):
    """(prediction, class names) of each image, in order, computed as they are asked for."""

    def __init__(
        self, predictor: Predictor | NetPredictor, model: str | Path, images: Dataset, progress: Progress | bool | None
    ) -> None:
        self._words = f"by {Path(model).name}, images: {len(images.samples)}"
        self._found = self._predicted(predictor, images.samples, progress)

    def __next__(self) -> tuple[Prediction, tuple[str, ...]]:
        return next(self._found)

    def close(self) -> None:
        """Ends the decoding threads, where not all images are wanted."""
        self._found.close()

    def __repr__(self) -> str:  # what a notebook shows: nothing is computed yet
        return f"<Predictions {self._words}; loop over them, or take list(..)>"

    @staticmethod
    def _predicted(
        predictor: Predictor | NetPredictor, samples: Sequence[Sample], progress: Progress | bool | None
    ) -> Generator[tuple[Prediction, tuple[str, ...]], None, None]:
        failed, bar = 0, Bar("predict", shown=progress is True and on_screen())
        told = callback(progress)
        try:
            for done, prediction in enumerate(predictor.predict(samples), start=1):
                failed += prediction.scores is None
                if told is not None:
                    told(done, len(samples), failed)
                bar.clear()  # the caller may print
                yield prediction, predictor.class_names
                bar.tick(done, len(samples), failed)
        finally:
            bar.clear()
            predictor.close()


@with_checked_arguments
def predict(
    model: str | Path,
    images: Images,
    *,
    probabilities: bool = False,
    exif: bool | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    weights: RecordedWeights = (),
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    preprocessing: PreprocessingLike = None,
    workers: int | None = None,
    offline: bool | None = None,
    progress: Progress | bool | None = True,
) -> Predictions:
    """Scores images with a fitted model or a trained net: an iterator over (prediction, class names) of each, in order.

        for prediction, class_names in vggfeat.predict("model.h5", "photos"):
            print(prediction.id, prediction.best(class_names, 5))

    A prediction has the image's `id`, its `scores` (K,), one a class, and `best(class_names, count)`: the best classes
    with their scores. An image that cannot be read has `scores` None, and the reason as its `error`. The model and its
    weights are read at once, the images as their predictions are asked for.

    Args:
        model: a file that `svm` wrote (`output`), or a net's checkpoint that `train` wrote.
        images: paths of images, folders and tar files, or a Dataset.
        probabilities: give a fitted model's class probabilities in place of its scores; a net's scores always are
            probabilities.
        exif: honour the EXIF orientation; by default as for the model's own images.
        max_megapixels: images of more million pixels fail.
        weights: for a fitted model, names or files in place of the weights that it records, one for each of its nets;
            their hash must be the recorded one.
        seed: for a fitted model of nets with random weights; by default the recorded one.
        device: as `load_net` takes it.
        precision: as `load_net` takes it; by default the one that a fitted model records, "auto" for a net.
        preprocessing: for a net, what its weights expect of an image, as `load_net` takes it.
        workers: threads that decode ahead of the nets; as many as there are cores by default.
        offline: forbids fetching a fitted model's weights, as `load_net` takes it.
        progress: True, a bar on terminals and in notebooks while images are read; False, none; or a function, called
            with (images done, images, images failed).

    Raises ModelError for the model, UsageError for options that do not fit it, WeightsError for its nets.
    """
    progress = checked_progress(progress)
    if not isinstance(model, str | os.PathLike):
        raise UsageError(f"{type(model).__name__} is not a model: give the file of a trained net or of a fitted model")
    images = as_dataset(images)
    if not images.samples:
        raise UsageError("no images to predict")
    if os.path.isdir(model):  # noqa: PTH112 - no error for a name that no system allows
        raise folder_error(ModelError, Path(model), (".h5", ".pt", ".pth"), "models or nets", advice="")
    threads, others = RunOptions(workers).threads, in_place_of_recorded(weights)
    predictor: Predictor | NetPredictor
    if is_net(model):
        _check_net(model, others, seed)
        from vggfeat.inference.net_predictor import NetPredictor

        oriented = images.exif if exif is None else exif
        predictor = NetPredictor(
            model,
            exif=oriented,
            device=device,
            precision=precision,
            preprocessing=preprocessing,
            workers=threads,
            max_megapixels=max_megapixels,
        )
    else:
        if preprocessing is not None:
            raise UsageError(f"`preprocessing` goes with a net; {model} is a fitted model, which records its nets'")
        overrides = Overrides(
            exif=exif,
            max_megapixels=max_megapixels,
            weights=others,
            seed=seed,
            device=device,
            precision=precision,
            offline=offline,
            workers=threads,
        )
        predictor = Predictor(model, probabilities=probabilities, images=images, overrides=overrides)
    return Predictions(predictor, model, images, progress)


def _check_net(net: str | Path, weights: Sequence[str], seed: int | None) -> None:
    """Raises UsageError for weights and a seed, because a net has its weights, and ModelError for a missing file."""
    given = "weights" if weights else None if seed is None else "seed"
    if given is not None:
        raise UsageError(f"`{given}` goes with a fitted model; {net} is a net, which has its weights")
    if not is_file(net):
        raise ModelError(f"{net}: {no_file(net)}")
