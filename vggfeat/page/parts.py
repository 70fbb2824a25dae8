"""Sections that several pages share: classes, confusions, images, provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.nets.wording import nets_words
from vggfeat.page import plots
from vggfeat.page.commands import notes_on
from vggfeat.page.evidence import ConfusedPair, Guessed, Scored, Shown, best, confusion, most_confused, worst
from vggfeat.page.html import NONE, Html, Part, bar, commands, percent, section, table, tag
from vggfeat.page.pictures import Pictures

PAIRS = 12
"""Number of most confused class pairs shown."""

PAIR_IMAGES = 4
CLASS_IMAGES = 3
"""Images per pair, and best and worst images per class."""

PICTURED = 300
"""Up to this many classes are shown with images, those with the lowest scores."""


def classes(
    names: Sequence[str],
    values: Sequence[float],
    counts: Sequence[int] | NDArray[np.integer[Any]],
    measure: str,
    of: str,
    folder: Path | None,
    **more: Sequence[Any],
) -> Part:
    """The classes with their scores as bars, lowest first.

    Args:
        names: K classes. values: their scores, 0 to 1. counts: their test images.
        measure: name of the score. of: which images it covers, in words.
        folder: where to write the plot; None: no plot.
        more: further columns by heading; empty ones are left out.
    """
    if folder is not None:
        plots.class_bars(folder, names, values, measure)
    columns = {heading: cells for heading, cells in more.items() if cells}
    rows = [
        (
            names[k],
            tag("td", percent(values[k]), class_="value"),
            bar(values[k]),
            counts[k],
            *(cells[k] for cells in columns.values()),
        )
        for k in np.argsort(np.nan_to_num(values, nan=2.0), kind="stable")
    ]
    heads = ["class", f"{measure} %", "", "test images", *columns]
    caption = f"{measure} of each class, {of}, lowest first"
    return section("classes", "Classes", table(caption, heads, rows, class_="wide"))


def precision_and_f1(splits: Sequence[Scored], num_classes: int) -> dict[str, list[str]]:
    """Columns for `classes`: precision and F1 of each class in %, over all splits together."""
    counts = confusion(splits, num_classes)
    right, given, of = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        precision, f1 = right / given, 2 * right / (given + of)
    return {"precision %": [percent(value) for value in precision], "F1 %": [percent(value) for value in f1]}


def confusions(
    names: Sequence[str],
    splits: Sequence[Guessed],
    pictures: Pictures,
    folder: Path | None,
    kind: str = "test",
    note: str = "",
) -> Part:
    """The confusion matrix and the most confused pairs with images; for many classes a table of names too.

    Args:
        names: K classes.
        splits: the images of each split with the classes that they were given.
        pictures: their thumbnails.
        folder: where to write the plot; None: no plot.
        kind: which images these are: test, validation.
        note: a sentence that comes first.
    """
    shown: list[Html] = [tag("p", note, class_="sub")] if note else []
    if folder is not None:
        shown.append(plots.confusion_matrix(folder, names, confusion(splits, len(names)), len(splits), kind))
    if len(names) > plots.NUMBERED:
        shown.append(_mistakes(names, confusion(splits, len(names)), kind))
    pairs = most_confused(splits, len(names), PAIRS, PAIR_IMAGES)
    pictures.prepare(id for pair in pairs for id in pair.ids)
    if pairs:
        shown.append(tag("h3", "The most confused pairs"))
        rows = [_pair(names, pair, pictures) for pair in pairs]
        caption = f"Share of a class's {kind} images that were given to another class, with the most confident mistakes"
        heads = ("class", "taken for", "share", "images")
        shown.append(table(caption, heads, rows, text=(0, 1, 3), class_="wide images"))
    else:
        shown.append(tag("p", f"Every {kind} image was given its own class."))
    return section("confusions", "Confusions", *shown)


MISTAKEN = 3
"""Classes that are named as the most frequent mistakes of a class."""


def _mistakes(names: Sequence[str], counts: NDArray[np.int64], kind: str) -> Html:
    """A table to search by name: what the images of each class were taken for."""
    rows = []
    for k in sorted(range(len(names)), key=lambda k: names[k].casefold()):
        wrong = counts[k].copy()
        wrong[k] = 0
        most = [j for j in np.argsort(-wrong, kind="stable")[:MISTAKEN] if wrong[j]]
        others = ", ".join(f"{names[j]} ({wrong[j]})" for j in most) or NONE
        rows.append((names[k], f"{counts[k, k]} of {counts[k].sum()}", others))
    caption = f"Every class by name: its {kind} images that were right, and the classes that most others were given"
    return table(caption, ("class", "right", "taken for"), rows, text=(0, 2), class_="wide")


def _pair(names: Sequence[str], pair: ConfusedPair, pictures: Pictures) -> Sequence[Any]:
    share = f"{percent(pair.count / pair.of)} % ({pair.count} of {pair.of})"
    return (
        names[pair.true],
        tag("td", names[pair.guess], class_="text", data_label="taken for"),
        tag("td", share, data_label="share"),
        _cell([pictures.show(id) for id in pair.ids], "images"),
    )


def images(
    names: Sequence[str],
    split: Scored,
    values: Sequence[float],
    pictures: Pictures,
    caption: str,
    score: Callable[[float], str] = "{:+.2f}".format,
) -> Part:
    """The highest- and lowest-scored images of each class.

    Args:
        names: K classes. values: their scores; the lowest are chosen if there are too many classes.
        split: the test images.
        pictures: their thumbnails.
        caption: which images these are and what their numbers mean.
        score: formats a score.
    """
    chosen = list(range(len(names)))
    if len(names) > PICTURED:
        chosen = sorted(np.argsort(np.nan_to_num(values, nan=2.0), kind="stable")[:PICTURED].tolist())
        caption += f"; the {PICTURED} classes with the lowest scores, of {len(names)}"
    found = {k: (best(split, k, CLASS_IMAGES), worst(split, k, CLASS_IMAGES)) for k in chosen}
    pictures.prepare(image.id for pair in found.values() for side in pair for image in side)
    heads = ("class", "highest scores", "lowest scores of its own images")
    rows = [
        (
            names[k],
            *(
                _cell([_image(names, image, pictures, score(image.score)) for image in side], label)
                for side, label in zip(pair, heads[1:], strict=True)
            ),
        )
        for k, pair in found.items()
    ]
    return section(
        "images", "Images", *not_shown(pictures), table(caption, heads, rows, text=(0, 1, 2), class_="wide images")
    )


def not_shown(pictures: Pictures) -> list[Html]:
    """A note on the prepared images that cannot be shown, if there are any."""
    failures = pictures.failures()
    if not failures:
        return []
    id, reason = next(iter(failures.items()))
    words = f"{len(failures)} of the images cannot be shown; the first is {id}: {reason}."
    return [tag("p", words, class_="note")]


def _image(names: Sequence[str], image: Shown, pictures: Pictures, score: str) -> Html:
    others = ", ".join(names[k] for k in image.others) or "none of the classes"
    wrong = Html() if image.right else tag("span", f" wrong: {others}", class_="wrong")
    return pictures.show(image.id, score, wrong)


def _cell(items: Sequence[Html], label: str) -> Html:
    """A table cell of images; on a narrow screen, which has no room for headings, it carries its label."""
    return tag("td", tag("ul", *items, class_="thumbs") if items else NONE, class_="text", data_label=label)


def numbers(values: Sequence[int]) -> str:
    """`256, 384`."""
    return ", ".join(map(str, values))


def taken(one: Mapping[str, Any]) -> list[str]:
    """The settings of a layer that are recorded only where they are not the usual ones."""
    words = [f"{name} {one[name]}" for name in ("pool", "view") if name in one]
    words += ["before the ReLU"] if one.get("pre_relu") else []
    return words + ([f"normalisation {one['normalise']}"] if "normalise" in one else [])


def described(one: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """How a file of descriptors was made, in words.

    Args:
        one: its attributes (`Descriptors.attributes`) with `path` and the `aggregate` in use.
        prefix: of each topic.
    """
    flips = "averaged with the mirror image" if one["flip"] else "no mirror image"
    layer = ", ".join((f"layer {one['layer']}", *taken(one)))
    versions = [key for key in sorted(one) if key.endswith("_version") and key != "format_version"]
    return {
        f"{prefix}descriptors": one["path"],
        f"{prefix}net": nets_words(one["settings"]["nets"]),
        f"{prefix}sha256 of the weights": one["weights_sha256"].replace("+", " + "),
        f"{prefix}images": f"Q {numbers(one['scales'])}, {one['aggregate']}; {flips}; "
        f"{layer}; region {one['region']}; precision {one['precision']}",
        f"{prefix}extracted with": ", ".join(f"{key.removesuffix('_version')} {one[key]}" for key in versions),
    }


def made(terms: Mapping[str, str], lines: Sequence[str], notes: Sequence[str] = ()) -> Part:
    """How a result was made, and the commands that repeat it.

    Args:
        terms: how, in words, by topic.
        lines: the commands.
        notes: what a reader should know of them, beside `notes_on`; empty ones are left out.
    """
    told = [tag("p", words, class_="sub") for words in (*notes_on(lines), *filter(None, notes))]
    list_ = tag("dl", *(part for name, value in terms.items() for part in (tag("dt", name), tag("dd", value))))
    return section("made", "How it was made", list_, tag("h3", "To repeat it"), commands(lines), *told)
