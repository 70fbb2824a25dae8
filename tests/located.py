"""A small ILSVRC tree with bounding boxes for tests: a bright square on noise, in each class's own colour.

Squares lie in a corner of the picture, so that their average overlaps none of them by half.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02119789")


def annotation(size: tuple[int, int], *objects: tuple[str, Sequence[float]]) -> str:
    """An XML file of ILSVRC's; boxes are 0-based and inclusive."""
    items = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{items}</annotation>"


def located_tree(root: Path, train: int = 6, val: int = 3, size: tuple[int, int] = (64, 48)) -> Path:
    """`<root>/ilsvrc2012` with train, val and bbox; returns root."""
    rng = np.random.default_rng(0)
    base, (width, height) = root / "ilsvrc2012", size
    (base / "bbox" / "val").mkdir(parents=True)
    for label, wnid in enumerate(WNIDS):
        (base / "bbox" / "train" / wnid).mkdir(parents=True)
        for part, count in (("train", train), ("val", val)):
            (base / part / wnid).mkdir(parents=True)
            for i in range(count):
                side = int(rng.integers(24, 29))
                left, top = (int(rng.integers(2)) * (room - side) for room in (width, height))
                pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
                pixels[top : top + side, left : left + side, label] += 180
                name = f"{wnid}_{part}_{i}"
                Image.fromarray(pixels).save(base / part / wnid / f"{name}.JPEG", quality=95)
                folder = base / "bbox" / (f"train/{wnid}" if part == "train" else "val")
                box = (left, top, left + side - 1, top + side - 1)
                (folder / f"{name}.xml").write_text(annotation(size, (wnid, box)))
    return root
