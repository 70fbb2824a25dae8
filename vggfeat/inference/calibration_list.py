"""The images of a calibration list, read before torch is imported."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from vggfeat.datasets import Sample
from vggfeat.datasets.folder import as_dataset
from vggfeat.datasets.listing import from_list
from vggfeat.errors import UsageError
from vggfeat.system.hdf5 import is_hdf5
from vggfeat.system.numbers import number_of
from vggfeat.system.text import name_bytes

CalibrationLike = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
"""A file that lists images, or their paths, or a descriptor file whose ranges count; None: some of the run's images."""

GOES_WITH_INT8 = "`calibration` goes with `precision=int8`"
"""Of a calibration that would change nothing."""

PROGRAMS_LIST = "a program's list of "
"""How the record of a calibration begins whose images a program named: no file has their names."""


def calibration_name(source: CalibrationLike) -> str:
    """How a file records the calibration: a path, or what tells one list of a program's from another."""
    if source is None or isinstance(source, str | os.PathLike):
        return "" if source is None else str(source)
    digest = hashlib.sha256(name_bytes("\n".join(os.fspath(path) for path in source))).hexdigest()[:16]
    return f"{PROGRAMS_LIST}{number_of(len(source), 'image')} (sha256 {digest})"


def listed_examples(source: CalibrationLike) -> tuple[Sample, ...]:
    """The images that a calibration names; none for a descriptor file, or where there is no calibration.

    Raises DatasetError for a list that cannot be read or a line that makes no sense, UsageError for an empty list.
    """
    if source is None:
        return ()
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, Sequence):
            raise UsageError(f"`calibration` is a {type(source).__name__}, not a file or a list of paths")
        if not (samples := as_dataset(source).samples):
            raise UsageError("`calibration` names no image to calibrate on")
        return samples
    if is_hdf5(source):
        return ()
    samples = from_list(os.fspath(source), only_lines=True).samples
    if not samples:
        raise UsageError(f"{source} has no line that names an image to calibrate on")
    return samples
