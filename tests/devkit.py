"""PASCAL VOC development kits for tests: label files as the real ones are, and pictures that stand in for VOC's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vggfeat.datasets.voc import ACTIONS, CLASSES


def main_files(root: Path, subset: str, ids: list[str], labels: dict[str, dict[str, int]]) -> None:
    """`ImageSets/Main` for one subset, with the real files' odd white space and CRLF; -1 by default."""
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "JPEGImages").mkdir(exist_ok=True)
    (folder / f"{subset}.txt").write_text("".join(f"{id}\r\n" for id in ids), newline="")
    for name in CLASSES:
        lines = [f"{id} {labels.get(name, {}).get(id, -1):2d}\r\n" for id in ids]
        (folder / f"{name}_{subset}.txt").write_text("".join(lines), newline="")


def annotation(root: Path, id: str, objects: list[tuple[str, tuple[object, ...]]]) -> None:
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    text = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax>"
        f"<ymax>{b[3]}</ymax></bndbox></object>"
        for name, b in objects
    )
    (root / "Annotations" / f"{id}.xml").write_text(f"<annotation><folder>VOC2012</folder>{text}</annotation>")


def action_files(root: Path, subset: str, persons: list[tuple[str, int]], labels: dict[str, set[int]]) -> None:
    """`ImageSets/Action` for one subset; labels: action -> positions of the persons that do it."""
    folder = root / "ImageSets" / "Action"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "JPEGImages").mkdir(exist_ok=True)
    for name in ACTIONS:
        lines = [
            f"{id}  {index}  {1 if at in labels.get(name, set()) else -1}\n" for at, (id, index) in enumerate(persons)
        ]
        (folder / f"{name}_{subset}.txt").write_text("".join(lines))


def stand_in(path: Path, kinds: list[int], classes: int, seed: int, size: tuple[int, int] = (80, 60)) -> None:
    """A JPEG of clutter with a striped patch for each of its kinds (0 to classes - 1), told apart by colour and slope."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 196, (4, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    for kind in kinds:
        left, top = (int(rng.integers(0, side // 2)) for side in size)
        picture.paste(_patch(kind, classes), (left, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=90)


def _patch(kind: int, classes: int, side: int = 28) -> Image.Image:
    """Stripes of a hue and a direction of their own."""
    patch = Image.new("HSV", (side, side), (255 * kind // classes, 255, 90))
    draw = ImageDraw.Draw(patch)
    angle = np.pi * ((7 * kind) % classes) / classes
    for at in range(-side, 2 * side, 7):
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        begin, end = at * across - 2 * side * along, at * across + 2 * side * along
        draw.line([*begin, *end], fill=(255 * kind // classes, 255, 255), width=3)
    return patch.convert("RGB")
