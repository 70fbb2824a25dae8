"""Archives for PASCAL VOC's evaluation server: one file of scores per class."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vggfeat.system.files import replacing

Task = Literal["Main", "Action"]

_NAMES = {"Main": "comp2_cls_test_{}.txt", "Action": "comp10_action_test_{}.txt"}
"""Competitions 2 and 10 allow data beyond VOC's own: the nets were trained on ILSVRC."""


def is_archive(path: Path) -> bool:
    """Whether a file is a tar file that begins with results, as those of `write_archive` do."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
    except (tarfile.TarError, OSError, EOFError):
        return False
    return first is not None and first.name.startswith("results/VOC2012/")


def write_archive(
    path: str | Path, task: Task, class_names: Sequence[str], ids: Sequence[str], scores: NDArray[np.float32]
) -> Path:
    """Writes `results/VOC2012/<task>/..` with a line `id score` (Main) or `id index score` (Action) for each image.

    Args:
        path: the .tar file.
        task: "Main" or "Action"; a person's id is `<image>_<index>`.
        class_names: K names, in the order of the columns.
        ids: N ids.
        scores: (N, K); a row of minus infinity, an image without a descriptor, is left out; the server ranks it last.
    """
    present = np.flatnonzero(np.isfinite(scores).all(axis=1)).tolist()
    prefixes = [" ".join(ids[row].rsplit("_", 1)) if task == "Action" else ids[row] for row in present]
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for k, name in enumerate(class_names):
            # Nine digits distinguish all float32 values, so rounding creates no ties.
            lines = [f"{prefix} {scores[row, k]:.9g}\n" for prefix, row in zip(prefixes, present, strict=True)]
            data = "".join(lines).encode("ascii")
            member = tarfile.TarInfo(f"results/VOC2012/{task}/{_NAMES[task].format(name)}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return Path(path)
