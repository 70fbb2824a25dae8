"""Pictures with true and predicted boxes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vggfeat.datasets import Sample, images
from vggfeat.errors import ImageError
from vggfeat.inference.localisation import Answer, error_of

DRAWN = 100
"""Most pictures that are drawn, evenly over the list."""


def draw_boxes(
    folder: Path,
    samples: Sequence[Sample],
    answers: Mapping[str, Answer],
    class_names: Sequence[str],
    *,
    exif: bool,
) -> dict[str, str]:
    """Draws at most DRAWN pictures into the folder; returns the reasons, by id, of those that could not be drawn.

    True boxes are white. The surest guess's is green where it is right, else orange.
    """
    failed = {}
    drawn: set[Path] = set()
    own = {os.path.abspath(sample.path) for sample in samples}  # noqa: PTH100 - of thousands
    for sample in samples[:: max(1, -(-len(samples) // DRAWN))]:
        answer = answers.get(sample.id)
        if answer is None:
            continue
        right = bool(sample.boxes) and error_of([sample], [answer], 1) == 0
        true = [((np.array(box) * (answer.size * 2)).tolist(), "white", "") for box in sample.boxes]
        guess = (answer.boxes[0].tolist(), "lime" if right else "orange", class_names[answer.classes[0]])
        file = _unused(folder / Path(sample.id.replace("/", "_")).with_suffix(".jpg"), drawn)
        try:
            if os.path.abspath(file) in own:  # noqa: PTH100
                raise ImageError("a picture of the data set has the drawing's name: name another folder")
            folder.mkdir(parents=True, exist_ok=True)
            images.write_outlined(file, images.decode(sample.source(), exif=exif), [*true, guess])
            drawn.add(file)
        except (ImageError, OSError) as error:  # the picture has gone, or the disk is full
            failed[sample.id] = str(error)
    return failed


def _unused(file: Path, drawn: set[Path]) -> Path:
    """The file, with a number where a picture whose id differs by its suffix alone has the name: x-2.jpg."""
    names = itertools.chain([file], (file.with_stem(f"{file.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if name not in drawn)
