"""The page of a localisation run: its errors beside trivial answers, and images with their boxes (Appendix A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggfeat.boxes import iou
from vggfeat.datasets import Sample
from vggfeat.inference.localisation import Answer, error_of
from vggfeat.nets.wording import net_words
from vggfeat.page import parts
from vggfeat.page.html import NONE, PAGE, Html, Part, breakable, document, error_rate, section, table, tag
from vggfeat.page.pictures import Pictures
from vggfeat.system.files import replacing
from vggfeat.system.numbers import number_of

SHOWN = 60
"""Most images on the page, evenly over the list: about 12 kB each."""

SIDE = 256
"""Longer side of an image in pixels: 1.5 times its size on the page."""


@dataclass(frozen=True)
class _Located:
    """An image with its true boxes and the surest guess."""

    sample: Sample
    answer: Answer
    iou: float
    """Of the guess's box with the true box that it covers best; NaN without a true box."""
    right: bool


def write_page(
    folder: str | Path,
    result: Mapping[str, Any],
    samples: Sequence[Sample],
    answers: Mapping[str, Answer],
    class_names: Sequence[str],
    commands: Sequence[str],
    exif: bool,
) -> Path:
    """Writes folder/index.html and returns its path.

    Args:
        folder: where to.
        result: the JSON of `stages.localise.Localisation`.
        samples: the images.
        answers: what was found, by id.
        class_names: K classes.
        commands: command lines that repeat the run.
        exif: honour the EXIF orientation.
    """
    found = [_located(sample, answers[sample.id]) for sample in samples if sample.id in answers]
    error = result["top5_error"] if result["protocol"] == "2" else result["top1_error"]
    name = "top-5" if result["protocol"] == "2" else "top-1"
    title = f"{result['dataset']}: {name} localisation error {error_rate(error)} %"
    words = f"{name} localisation error; the whole image as the box: {error_rate(result['whole_image'])} %"
    nets = [
        f"{net_words(net['net'], net['weights'], net['width'])} at Q {', '.join(map(str, net['scales']))}"
        for net in result["nets"]
    ]
    lead = [
        tag("p", f"{error_rate(error)} %", tag("small", words), class_="headline"),
        tag(
            "p",
            f"{number_of(result['images'], 'image')} scored, {len(result['failed'])} failed; net {'; '.join(nets)}.",
            class_="sub",
        ),
    ]
    terms = {f"net {at}": words for at, words in enumerate(nets, start=1)}
    sections = [_errors(result), _images(found, class_names, exif), parts.made(terms, commands)]
    path = Path(folder) / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(document(title, lead, sections), encoding="utf-8", newline="\n")
    return path


def _located(sample: Sample, answer: Answer) -> _Located:
    true = np.array(sample.boxes, dtype=float).reshape(-1, 4) * (answer.size * 2)
    best = float(iou(answer.boxes[:1], true).max()) if len(true) else float("nan")
    right = bool(len(true)) and error_of([sample], [answer], 1) == 0
    return _Located(sample, answer, best, right)


def _errors(result: Mapping[str, Any]) -> Part:
    rows = [
        ("surest guess (top-1)", error_rate(result["top1_error"])),
        ("five guesses (top-5)", error_rate(result["top5_error"])),
        ("the whole image as the box", error_rate(result["whole_image"])),
        ("the mean box of the training images", error_rate(result["mean_box"])),
    ]
    caption = f"Protocol {result['protocol']}: a guess is right if the class is and the IoU is above 0.5"
    shown = [table(caption, ("answer", "error %"), [row for row in rows if row[1] != NONE])]
    if result["thresholds"]:
        curve = [(value, error_rate(error)) for value, error in result["thresholds"].items()]
        words = "Top-5 error on every tenth image by the match score up to which boxes merge; the chosen one is set off"
        chosen = list(result["thresholds"]).index(f"{result['threshold']:g}")
        shown.append(table(words, ("threshold", "top-5 error %"), curve, text=(), ours=chosen))
    return section("score", "Errors", *shown)


def _images(found: Sequence[_Located], class_names: Sequence[str], exif: bool) -> Part:
    """Images evenly over the list, lowest IoU first."""
    chosen = sorted(found[:: max(1, -(-len(found) // SHOWN))], key=lambda one: np.nan_to_num(one.iou, nan=2.0))
    pictures = Pictures([one.sample for one in chosen], exif=exif, side=SIDE)
    pictures.prepare(one.sample.id for one in chosen)
    few = f"{len(chosen)} of {len(found)} images, evenly chosen" if len(chosen) < len(found) else "All images"
    key = tag(
        "p",
        *(
            tag("span", tag("svg", tag("rect", x=3, y=3, width=26, height=12, class_=kind)), words)
            for kind, words in (
                ("true", "true box"),
                ("right", "surest guess, right"),
                ("mistaken", "surest guess, wrong"),
            )
        ),
        class_="key",
    )
    words = tag("p", f"{few}, lowest IoU of the surest guess first.", class_="sub")
    shown = tag("ul", *(_item(one, class_names, pictures) for one in chosen), class_="boxes")
    return section("images", "Images", words, key, shown)


def _item(one: _Located, class_names: Sequence[str], pictures: Pictures) -> Html:
    """An image with its boxes, and below it the guess and its IoU; without the picture the words alone."""
    guess = class_names[one.answer.classes[0]]
    overlap = "no true box" if one.iou != one.iou else f"IoU {one.iou:.2f}"
    label = one.sample.labels
    true = f", in fact {class_names[label]}" if isinstance(label, int) and label != one.answer.classes[0] else ""
    x, y, right, bottom = one.answer.boxes[0]
    # Weak nets predict boxes that end where they begin, or lie outside of the image and are cut off at its edge.
    empty = "" if right > x and bottom > y else " with an empty box"
    below = f"{one.sample.id}: {overlap}; guess {guess}{empty}{true}, {'right' if one.right else 'wrong'}"
    uri = pictures.uri(one.sample.id)
    if uri is None:
        return tag("li", breakable(below), class_="named")
    width, height = one.answer.size
    boxes = [np.array(box) * (one.answer.size * 2) for box in one.sample.boxes]
    drawn = [*((box, "true") for box in boxes), (one.answer.boxes[0], "right" if one.right else "mistaken")]
    rects = [_rect(box, kind) for box, name in drawn for kind in ("edge", name)]
    picture = tag("image", href=uri, x=0, y=0, width=width, height=height)
    svg = tag("svg", picture, *rects, viewBox=f"0 0 {width} {height}", role="img", aria_label=below)
    return tag("li", svg, breakable(below))


def _rect(box: Any, kind: str) -> Html:
    x, y, right, bottom = (float(value) for value in box)
    return tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{right - x:.1f}", height=f"{bottom - y:.1f}", class_=kind)
