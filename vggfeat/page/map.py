"""A map of images in two dimensions: those with similar descriptors lie side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggfeat.page.html import Html, Part, figure, join, section, tag
from vggfeat.page.pictures import Pictures
from vggfeat.system.numbers import number_of
from vggfeat.system.text import printable

MAPPED = 500
"""Most images on a map, evenly over the test images: t-SNE's time grows with their square."""

PICTURED = 60
"""Most thumbnails on a map, about 5 kB each."""

LABELLED = 20
"""Up to this many classes have their names on the map."""

FEW = 10
"""With fewer images neighbourhoods mean nothing, so the map shows principal components."""

PERPLEXITY = 30
COMPONENTS = 50
"""t-SNE's usual setting, and the principal components that it starts from (van der Maaten and Hinton, 2008)."""

WIDTH, HEIGHT, THUMB = 1000, 700, 72
"""Size of the map and of a thumbnail, in units of the drawing."""

MARGIN = THUMB / 2 + 4
"""From the border to an image's place: half a thumbnail and its frame."""


@dataclass(frozen=True)
class Placed:
    """Images with their places on the map."""

    ids: Sequence[str]
    places: NDArray[np.float64]
    """(n, 2) from 0 to 1, x to the right and y downwards."""
    method: str
    """How the places were found, in words."""
    of: int
    """Images that there were before `MAPPED` of them were chosen."""


def chosen_rows(count: int) -> NDArray[np.intp]:
    """At most `MAPPED` of this number of rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, MAPPED)).round().astype(np.intp))


def place(ids: Sequence[str], values: NDArray[np.float32], of: int) -> Placed | None:
    """Finds the places of images by t-SNE; None for fewer than three images or equal descriptors.

    t-SNE keeps neighbours together, which is what the map is read for; the first two principal components of 4,096
    values hold a small share of their variance and let classes overlap. It starts from the principal components, with
    a fixed seed, so the same descriptors give the same map on one machine.

    Args:
        ids: n images.
        values: (n, D) descriptors.
        of: images from which these were chosen.
    """
    if len(ids) < 3 or not np.ptp(values, axis=0).any():
        return None
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = min(COMPONENTS, *values.shape)
    solver = "randomized" if components == COMPONENTS else "full"
    reduced = PCA(components, svd_solver=solver, random_state=0).fit_transform(values.astype(np.float64))
    if len(ids) < FEW or components < 2:
        found, method = np.pad(reduced, ((0, 0), (0, 1)))[:, :2], "the first two principal components"
    else:
        perplexity = min(PERPLEXITY, (len(ids) - 1) / 3)
        found = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(reduced)
        method = f"t-SNE, perplexity {perplexity:.3g}"
    low, high = found.min(axis=0), found.max(axis=0)
    return Placed(ids, (found - low) / np.where(high > low, high - low, 1), method, of)


def section_of(
    placed: Placed,
    names: Sequence[str],
    labels: NDArray[np.integer],
    guesses: NDArray[np.intp],
    pictures: Pictures,
) -> Part:
    """The map: a dot for each image, thumbnails where there is room, and the names of a few classes.

    Args:
        placed: the images.
        names: K classes.
        labels: (n,) their classes, or (n, K) of 1, 0, -1.
        guesses: (n,) the classes that they were given.
        pictures: their thumbnails.
    """
    single = labels.ndim == 1
    right = labels == guesses if single else labels[np.arange(len(guesses)), guesses] == 1
    at = MARGIN + placed.places * [WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN]
    words = [_words(id, names, labels[row], guesses[row]) for row, id in enumerate(placed.ids)]
    shown = [] if pictures.missing else _spread(at)
    pictures.prepare(placed.ids[row] for row in shown)
    drawn = [_dot(x, y, bool(right[row]), words[row]) for row, (x, y) in enumerate(at)]
    drawn += [_thumbnail(pictures, placed.ids[row], at[row], bool(right[row]), words[row]) for row in shown]
    if single and len(names) <= LABELLED:
        drawn += _class_names(at, names, labels)
    shown_right = number_of(int(right.sum()), "of them was", "of them were")
    alternative = f"Map of {number_of(len(placed.ids), 'image')}; {shown_right} given a class of their own"
    svg = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alternative, class_="map")
    few = f" {len(placed.ids)} of {placed.of} images, evenly chosen." if len(placed.ids) < placed.of else ""
    caption = (
        "Test images of the first split; neighbours have similar descriptors, and distances between groups mean "
        f"little ({placed.method}).{few} Blue: right; orange: given another class."
    )
    return section("map", "Map", figure(svg, caption))


def _words(id: str, names: Sequence[str], label: NDArray[np.integer], guess: int) -> str:
    """An image's id, classes and guess, shown under the pointer."""
    own = [int(label)] if label.ndim == 0 else np.flatnonzero(label == 1).tolist()
    of = ", ".join(names[k] for k in own) or "no class"
    return f"{id}: {of}" + ("" if guess in own else f", taken for {names[guess]}")


def _spread(at: NDArray[np.float64]) -> list[int]:
    """Rows whose thumbnails do not overlap, the next one always the farthest from those taken."""
    taken: list[int] = []
    gap = np.full(len(at), np.inf)
    row = int(np.linalg.norm(at - at.mean(axis=0), axis=1).argmin())
    while len(taken) < PICTURED and gap[row] >= THUMB:
        taken.append(row)
        gap = np.minimum(gap, np.abs(at - at[row]).max(axis=1))
        row = int(gap.argmax())
    return taken


def _dot(x: float, y: float, right: bool, words: str) -> Html:
    kind = "right" if right else "mistaken"
    return tag("circle", tag("title", words), cx=f"{x:.1f}", cy=f"{y:.1f}", r=6, class_=kind)


def _thumbnail(pictures: Pictures, id: str, at: NDArray[np.float64], right: bool, words: str) -> Html:
    """A framed thumbnail; nothing for an image that cannot be read, whose dot stays."""
    uri = pictures.uri(id)
    if uri is None:
        return Html()
    x, y = at - THUMB / 2
    box = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": THUMB, "height": THUMB}
    frame = tag("rect", **box, class_="right" if right else "mistaken")
    return tag("g", tag("title", words), frame, tag("image", href=uri, **box))


def _class_names(at: NDArray[np.float64], names: Sequence[str], labels: NDArray[np.integer]) -> list[Html]:
    """Each class's name at the median of its images."""
    found = []
    for k in np.unique(labels).tolist():
        x, y = np.median(at[labels == k], axis=0)
        side = "start" if x < WIDTH / 4 else "end" if x > 3 * WIDTH / 4 else "middle"
        name = printable(names[k])
        short = name if len(name) <= 18 else name[:17] + "…"
        found.append(tag("text", short, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=side))
    return [join(found)]
