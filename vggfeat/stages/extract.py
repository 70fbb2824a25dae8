"""Images to descriptors, in one HDF5 file (Appendix B)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vggfeat.datasets.folder import Images, as_dataset
from vggfeat.datasets.outage import MAX_READ_FAILURES
from vggfeat.datasets.sample import MAX_MEGAPIXELS, Dataset
from vggfeat.errors import UsageError, unknown_name
from vggfeat.inference.blocks import blocks_of, fill
from vggfeat.inference.calibration_list import GOES_WITH_INT8, CalibrationLike, calibration_name, listed_examples
from vggfeat.inference.settings import (
    DescriptorSettings,
    DescriptorView,
    NetChoice,
    Normalisation,
    Pooling,
    PreprocessingLike,
    Region,
    RunOptions,
    WeightsLike,
)
from vggfeat.store import FAILED, DescriptorWriter, check_output
from vggfeat.store.choices import STORES, Aggregate
from vggfeat.store.finding import FOLDER
from vggfeat.store.naming import Naming, weights_files
from vggfeat.store.pooling import as_scales
from vggfeat.store.shards import Portion, Shard, cut
from vggfeat.system.arguments import with_checked_arguments
from vggfeat.system.bars import Fetching, Progress, callback, with_bar
from vggfeat.system.numbers import number_of
from vggfeat.system.values import real, several

if TYPE_CHECKING:  # torch, which only a run that can begin imports
    from vggfeat.inference.settings import NetLike
    from vggfeat.nets.networks import VGG

log = logging.getLogger(__name__)


@with_checked_arguments
@with_bar("extract")
def extract(
    images: Images,
    *,
    net: NetLike | Sequence[NetLike] | None = None,
    weights: WeightsLike | Sequence[WeightsLike] = "published",
    scales: int | Sequence[int] = (256, 384, 512),
    aggregate: Aggregate = "stack",
    flip: bool = True,
    layer: str | Sequence[str] = "fc7",
    pool: Pooling = "avg",
    view: DescriptorView = "dense",
    pre_relu: bool = False,
    normalise: Normalisation = "l2",
    region: Region = "image",
    exif: bool | None = None,
    store: str = "float32",
    keep_scales: bool = False,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    shard: Shard | str | None = None,
    max_read_failures: int = MAX_READ_FAILURES,
    max_megapixels: float = MAX_MEGAPIXELS,
    width: float | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str = "auto",
    calibration: CalibrationLike = None,
    preprocessing: PreprocessingLike | Sequence[PreprocessingLike] = None,
    workers: int | None = None,
    offline: bool | None = None,
    progress: Progress | bool | None = True,
    fetching: Fetching | None = None,
) -> Path:
    """Writes one descriptor an image into an HDF5 file and returns its path (Appendix B).

    Args:
        images: paths of images, folders (searched recursively) and tar files, or a Dataset. One folder that is a tree
            of classes (`<class>/*.jpg`, or these in `train/` and `val/`) brings its labels, as a Dataset does, without
            the few images that lie outside of the class folders.
        net: name of Table 1 ("D" by default), or a net from `load_net`; several are stacked into one descriptor.
        weights: as `load_net` takes them; one for all nets, or one a net.
        scales: smallest sides Q in pixels, at least 224, or 32 if no layer is after pool5.
        aggregate: "stack", "average" or "max" over the scales.
        flip: average each scale with the mirror image's descriptor.
        layer: "conv1_1" to "pool5", "fc6" or "fc7" (the penultimate layer), or several, which one pass computes. The
            file keeps each under its name; read together they are stacked, each at unit length. "pool5:max" gives a
            layer a pooling of its own, so ("pool5", "pool5:max") are the mean and the maximum of one pass.
        pool: how a layer's map becomes a vector: "avg" (Appendix B), "max" or "gem" (generalised mean, p = 3) over its
            positions, or "none", the whole map in the order channel, row, column (view "center").
        view: "dense", the whole image, or "center", the central 224x224 crop of each scale.
        pre_relu: values before the layer's ReLU.
        normalise: "l2", unit length, or "none", the raw values.
        region: "image", the sample's "box", or "both" stacked.
        exif: honour the EXIF orientation; by default for users' own pictures, not for the benchmark sets.
        store: "float32" or "float16" in the file.
        keep_scales: store each scale's activations too, so that they can be aggregated anew without the net.
        output: the file; by default `descriptors/<dataset>-<net>-<weights>-<scales>-<aggregate>.h5`.
        resume: continue the file where it stopped. overwrite: replace it.
        shard: extract one part alone, such as "3/16" (counted from 0), into `<output>.shard-03-of-16.h5`; `merge` joins
            the parts. They are whole blocks of the list, so the joined values are those of one process: bit for bit on
            processors of one type, on GPUs to rounding.
        max_read_failures: images in a row that cannot be read, as when a disk has gone, before the run stops with
            their rows still to do; 0 never stops.
        max_megapixels: images of more million pixels fail.
        width, seed: of nets with random weights.
        device, precision, offline: as `load_net` takes them.
        calibration: with precision "int8", the images whose maps set the steps of 8 bits: their paths, or a file that
            lists them; or a descriptor file whose steps count. By default 32 of the images themselves, evenly spaced
            (of the whole list for a shard).
        preprocessing: what the weights expect of an image, as `load_net` takes it; one for all nets, or one a net.
        workers: threads that decode ahead of the net; as many as there are cores by default.
        progress: True, a bar on terminals and in notebooks; False, none; or a function, called with (rows done, rows,
            rows failed).
        fetching: called with (bytes done, bytes in all or None) while published weights are fetched; by default a bar
            where `progress` is one.

    An image that cannot be read costs its own row alone: status 2 and a reason (`read_descriptors(path).errors()`).

    Raises UsageError for settings that make no sense, StoreError for the file, WeightsError and DownloadError for
    the weights, DatasetError for the list, OutageError where its images can no longer be reached.
    """
    options = RunOptions(workers, max_read_failures, callback(progress), resume, overwrite)
    if store not in STORES:
        raise unknown_name("number format of the file", store, STORES)
    dataset = as_dataset(images, labelled=True)
    if not dataset.samples:
        raise UsageError("no images to extract from")
    real("max_megapixels", max_megapixels)
    part = shard if isinstance(shard, Shard | None) else Shard.parse(shard)
    whole = dataset.samples
    _warn_of_labels(dataset)
    portion: Portion | None = None
    if part is not None:
        dataset, portion = cut(dataset, part, blocks_of(len(dataset.samples)))
    exif = dataset.exif if exif is None else exif
    layers = several("layer", layer)
    settings = DescriptorSettings(
        as_scales(scales), aggregate, flip, layers, region, exif, pool, view, pre_relu, normalise
    )
    if region != "image" and all(sample.box is None for sample in whole):
        raise UsageError(f"`region={region}` needs a data set of boxes, such as voc2012-action: no image has one")
    if store == "float16" and normalise == "none":
        raise UsageError("`normalise=none` keeps raw values, which float16 may not hold: take `store=float32`")
    choice = NetChoice(net, weights, width, seed, device, precision, offline, fetching, preprocessing)
    choice.check_names(layers)
    if output is not None:
        check_output(_part_of(output, part), resume=resume, overwrite=overwrite)
    listed_examples(calibration)  # a list with a fault is told before anything is fetched
    if calibration is not None and precision != "int8" and not choice.has_loaded_nets:
        raise UsageError(GOES_WITH_INT8)
    choice.check_weights()
    from vggfeat.inference.calibration import calibrate
    from vggfeat.inference.extractor import Extractor

    nets = choice.load(layers)
    naming = Naming(dataset.origin, weights_files(weights, len(nets)), calibration_name(calibration))
    path = _part_of(default_output(dataset.name, nets, settings) if output is None else output, part)
    calibrate(
        nets,
        whole,
        settings.scales,
        head=settings.has_head,
        exif=exif,
        max_megapixels=max_megapixels,
        source=calibration,
        resumed=path if resume else None,
    )
    extractor = Extractor(nets, settings, workers=options.threads, max_megapixels=max_megapixels)
    try:
        with DescriptorWriter(
            path,
            dataset,
            extractor.provenance(),
            dim=extractor.dim,
            layer_dims=extractor.layer_dims,
            store=store,
            keep_scales=keep_scales,
            portion=portion,
            naming=naming,
            resume=resume,
            overwrite=overwrite,
        ) as writer:
            fill(writer, extractor, options)
    finally:
        extractor.close()
    failed = int((writer.status == FAILED).sum())
    if failed:
        log.warning(
            "%s: %d of %s failed (read_descriptors(path).errors() says why)",
            path,
            failed,
            number_of(len(writer.status), "image"),
        )
    return path


def _warn_of_labels(dataset: Dataset) -> None:
    """A file has the labels of all of its images, or none."""
    lacking = [sample.id for sample in dataset.samples if sample.labels is None]
    if 0 < len(lacking) < len(dataset.samples):
        count = number_of(len(dataset.samples), "image")
        log.warning("no labels are kept, because %d of %s have none, such as %s", len(lacking), count, lacking[0])


def _part_of(output: str | os.PathLike[str], part: Shard | None) -> Path:
    """The file that a run writes: the output itself, or a shard's."""
    return Path(output) if part is None else part.path(Path(output))


def default_output(dataset: str, nets: Sequence[VGG], settings: DescriptorSettings) -> Path:
    """`descriptors/<dataset>-<net>-<weights>-<scales>-<aggregate>.h5`."""
    names = "+".join(net.net for net in nets)
    weights = "+".join(dict.fromkeys(Path(net.weights_name).stem for net in nets))
    scales = "_".join(map(str, settings.scales))
    return FOLDER / f"{dataset}-{names}-{weights}-{scales}-{settings.aggregate}.h5"
