"""The ranges of a net's maps, from some of the images: what 8 bits need to know before they begin."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vggfeat.datasets import Sample, images
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import ImageError, StoreError, UsageError
from vggfeat.inference.calibration_list import GOES_WITH_INT8, CalibrationLike, calibration_name, listed_examples
from vggfeat.nets.int8 import input_maxima, is_calibrated
from vggfeat.nets.networks import VGG
from vggfeat.nets.scaling import InputScaling
from vggfeat.store.naming import Naming
from vggfeat.store.schema import plain_attributes, reading
from vggfeat.system.devices import check_int8_device
from vggfeat.system.files import same_file
from vggfeat.system.hdf5 import is_hdf5

log = logging.getLogger(__name__)

IMAGES = 32
"""Evenly spaced ones that a net is calibrated on."""

LONGEST = 200
"""Characters of an image's name in a message: a file that is no list may have lines of any length."""


def calibrate(
    nets: Sequence[VGG],
    samples: Sequence[Sample],
    scales: Sequence[int],
    *,
    head: bool = True,
    exif: bool = True,
    max_megapixels: float = MAX_MEGAPIXELS,
    source: CalibrationLike = None,
    resumed: Path | None = None,
) -> None:
    """Sets the `input_maxima` of those nets that run in int8 and have none.

    Args:
        nets: nets, of any precision.
        samples: the images of the run; `IMAGES` of them count, evenly spaced, without those that cannot be read.
        scales: smallest sides Q in pixels; each image is looked at in one of them, in turn.
        head: whether the fully-connected layers will run.
        exif: honour the EXIF orientation.
        max_megapixels: images of more million pixels count as unreadable.
        source: a list of images that count in place of `samples`, or a descriptor file of the same nets.
        resumed: a descriptor file that the run goes on with, whose ranges count before all else.

    Raises UsageError for a net in int8 that is not on the CPU, where no image can be read, or for a descriptor file of
    other nets, and what reading a list or a descriptor file raises.
    """
    for net in nets:
        if net.precision == "int8":
            check_int8_device(next(net.parameters()).device)
    waiting = [net for net in nets if net.precision == "int8" and not is_calibrated(net, head=head)]
    if not waiting:
        if source is not None and all(net.precision != "int8" for net in nets):
            raise UsageError(GOES_WITH_INT8)
        return
    if resumed is not None and resumed.is_file() and _taken_from(resumed, waiting, head):
        _check_same_source(resumed, source)
        return
    if isinstance(source, str | os.PathLike) and is_hdf5(source):
        if not _taken_from(Path(source), waiting, head):
            raise UsageError(f"{source} has no ranges of these nets: give descriptors of theirs in int8, or a list")
        return
    samples = listed_examples(source) or samples
    for net in waiting:
        unread: list[str] = []
        try:
            pictures = _batches(net, samples, scales, exif, max_megapixels, unread)
            net.input_maxima = input_maxima(net, pictures, head=head)
        except ValueError as error:
            first = f"; the first, {unread[0]}" if unread else ""
            raise UsageError(f"`precision=int8`: {error}{first}") from None
        log.info("calibrated net %s: %s", net.net, net.input_maxima)


def _check_same_source(resumed: Path, source: CalibrationLike) -> None:
    """Raises UsageError for a list or file that is not the one whose ranges the file to resume keeps."""
    if source is None:
        return
    with reading(resumed) as file:
        recorded = Naming.of(dict(file.attrs)).calibration
    name = calibration_name(source)
    if not recorded or not (recorded == name or same_file(recorded, name)):
        raise UsageError(
            f"{resumed} was calibrated on {recorded or 'its own images'}, not on {name}: leave out `calibration`, "
            "`overwrite` replaces the file, `output` names another"
        )


def _taken_from(path: Path, nets: Sequence[VGG], head: bool) -> bool:
    """Whether the descriptor file has ranges of all these nets, which then have them."""
    try:
        with reading(path) as file:
            recorded = plain_attributes(file)["settings"]["nets"]
    except (StoreError, ValueError, KeyError):  # the run itself tells what is wrong with a file to resume
        return False
    maxima = {(one["net"], one["weights_sha256"]): one.get("input_maxima") for one in recorded}
    before = [net.input_maxima for net in nets]
    for net in nets:
        net.input_maxima = maxima.get((net.net, net.fingerprint()))
    if all(is_calibrated(net, head=head) for net in nets):
        return True
    for net, its in zip(nets, before, strict=True):
        net.input_maxima = its
    return False


def _batches(
    net: VGG,
    samples: Sequence[Sample],
    scales: Sequence[int],
    exif: bool,
    max_megapixels: float,
    unread: list[str],
) -> Iterator[Tensor]:
    """What the net takes of each image and scale, (1, 3, H, W); `unread` receives why an image has none."""
    scaling = InputScaling(net.preprocessing)
    places = {place * len(samples) // IMAGES for place in range(IMAGES)} if samples else ()
    for turn, sample in enumerate(samples[place] for place in sorted(places)):
        try:
            picture = images.decode(sample.source(), exif=exif, max_megapixels=max_megapixels, name=sample.id)
        except ImageError as error:
            unread.append(f"{_cut(sample.id)}: {error}")
            continue
        pixels = images.rescale(picture, scales[turn % len(scales)], net.preprocessing.filter)
        yield scaling(torch.from_numpy(pixels.copy())).permute(2, 0, 1)[None]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}.."
