"""The images of a calibration list, read before torch is imported."""

from __future__ import annotations

import os

from vggfeat.datasets import Sample
from vggfeat.datasets.listing import from_list
from vggfeat.errors import UsageError
from vggfeat.system.hdf5 import is_hdf5

CalibrationLike = str | os.PathLike[str] | None
"""A list of images, or a descriptor file whose ranges count; None: some of the images themselves."""

GOES_WITH_INT8 = "`calibration` goes with `precision=int8`"
"""Of a calibration that would change nothing."""


def listed_examples(source: CalibrationLike) -> tuple[Sample, ...]:
    """The images that a calibration names; none for a descriptor file, or where there is no calibration.

    Raises DatasetError for a list that cannot be read or a line that makes no sense, UsageError for an empty list.
    """
    if source is None or is_hdf5(source):
        return ()
    samples = from_list(os.fspath(source), only_lines=True).samples
    if not samples:
        raise UsageError(f"{source} has no line that names an image to calibrate on")
    return samples
