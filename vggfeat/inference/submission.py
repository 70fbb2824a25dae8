"""ILSVRC's result files: a line an image in the list's order, the five best classes, with or without boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggfeat.datasets import Sample
from vggfeat.inference.classes import class_numbers
from vggfeat.inference.posteriors import Posteriors
from vggfeat.metrics import TOP
from vggfeat.system.files import replacing

if TYPE_CHECKING:  # it brings torch
    from vggfeat.inference.localisation import Answer


def write_classes(path: str | Path, posteriors: Posteriors, numbers: Mapping[str, int]) -> str:
    """Writes each image's five best classes, surest first, and returns the path.

    A failed image's line is `0 0 0 0 0`, which is not a class, so that every other image keeps its line.

    Args:
        numbers: ILSVRC2012_ID by wnid.

    Raises DatasetError for a class that has no ID.
    """
    of_class = class_numbers(posteriors.class_names, numbers)
    best = of_class[np.argsort(-posteriors.values, axis=1, kind="stable")[:, :TOP]]  # (N, 5)
    best[~posteriors.done] = 0
    return _written(path, (" ".join(map(str, row)) for row in best.tolist()))


def write_boxes(
    path: str | Path,
    samples: Sequence[Sample],
    answers: Mapping[str, Answer],
    class_names: Sequence[str],
    numbers: Mapping[str, int],
) -> str:
    """Writes class number, xmin, ymin, xmax, ymax of each image's guesses, surest first, and returns the path.

    Pixels are ILSVRC's own: 0-based and inclusive. A failed image's line guesses class 0, which does not exist.

    Args:
        answers: by the sample's id.
        numbers: ILSVRC2012_ID by wnid.

    Raises DatasetError for a class that has no ID.
    """
    of_class = class_numbers(class_names, numbers)
    lines = []
    for sample in samples:
        answer = answers.get(sample.id)
        if answer is None:
            lines.append(" ".join(["0 0 0 0 0"] * TOP))
            continue
        corners = np.rint(answer.boxes).astype(int) - (0, 0, 1, 1)
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])  # at least one pixel
        guesses = np.column_stack([of_class[answer.classes], corners])  # (k, 5)
        lines.append(" ".join(map(str, guesses.ravel().tolist())))
    return _written(path, lines)


def is_result_file(path: Path) -> bool:
    """Whether a file's first line has five classes, or five classes with their boxes."""
    with path.open("rb") as stream:
        numbers = stream.readline(1000).split()
    return len(numbers) in (TOP, 5 * TOP) and all(number.lstrip(b"-").isdigit() for number in numbers)


def _written(path: str | Path, lines: Iterable[str]) -> str:
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="ascii", newline="\n")
    return str(path)
