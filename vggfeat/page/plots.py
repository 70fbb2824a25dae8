"""Plots, drawn by matplotlib (optional extra `report`), saved as SVG and PNG and embedded in the page.

The files have fixed colours; in the page these become CSS variables, so that plots follow light and dark mode.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
import xml.etree.ElementTree as ET  # reads back only what matplotlib has just written
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vggfeat.page.evidence import Ranking
from vggfeat.page.html import Html, figure, tag
from vggfeat.page.style import COLOURS
from vggfeat.system.files import replacing
from vggfeat.system.numbers import number_of
from vggfeat.system.text import printable

if TYPE_CHECKING:  # scikit-learn, which other pages do without
    from vggfeat.classifiers.protocols.results import LayerScore

log = logging.getLogger(__name__)

NEEDED = "no plots: they need matplotlib (pip install 'vggfeat[report]')"
"""Shown on a page without plots."""

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "svg.hashsalt": "vggfeat",
    "font.size": 9,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "grid.color": COLOURS["line"],
    "legend.frameon": False,
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def place(folder: Path) -> Path | None:
    """Creates the folder of a page. Returns it if plots can be drawn, else logs why not and returns None."""
    folder.mkdir(parents=True, exist_ok=True)
    if available():
        return folder
    log.warning("the report has %s", NEEDED)
    return None


class Canvas:
    """A figure to draw on in a `with` block. Texts are literal: a class may be called `$x^2$`."""

    def __init__(self, width: float, height: float, rows: int = 1, columns: int = 1) -> None:
        self._size, self._grid = (width, height), (rows, columns)

    def __enter__(self) -> Canvas:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._settings = matplotlib.rc_context(_RC)
        self._settings.__enter__()
        self.figure = Figure(figsize=self._size, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.axes: list[Any] = list(np.ravel(self.figure.subplots(*self._grid, squeeze=False)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._settings.__exit__(*error)

    def picture(self, path: Path) -> Path:
        """Writes the figure as a PNG alone and returns its path."""
        with replacing(path) as temporary:
            self.figure.savefig(temporary, format="png", facecolor="white", dpi=120)
        return path

    def save(self, folder: Path, name: str, alternative: str) -> Html:
        """Writes name.svg and name.png and returns the plot for the page.

        Args:
            folder: where to write.
            name: file name without suffix, unique in the page.
            alternative: the plot in words, for screen readers.
        """
        from matplotlib.text import Text

        for text in self.figure.findobj(Text):
            text.set_parse_math(False)
        stream = io.BytesIO()
        with warnings.catch_warnings():
            # Scripts that matplotlib's font lacks become boxes in the PNG only; SVG and page are right.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.figure.savefig(stream, format="svg", transparent=True)
            for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
                with replacing(folder / f"{name}.{kind}") as temporary:
                    self.figure.savefig(temporary, format=kind, facecolor="white", **options)
        return _for_the_page(stream.getvalue(), name, alternative)


def _for_the_page(svg: bytes, name: str, alternative: str) -> Html:
    """Adapts matplotlib's SVG to the page: unique ids, the page's colours and width, a description."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(svg)
    for child in [child for child in root if child.tag.endswith("metadata")]:
        root.remove(child)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif key in ("style", "fill", "stroke", "clip-path"):
                element.set(key, _in_page_colours(value).replace("url(#", f"url(#{name}-"))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", printable(alternative))
    return Html(ET.tostring(root, encoding="unicode"))


def _in_page_colours(value: str) -> str:
    for name, colour in COLOURS.items():
        value = value.replace(colour, f"var(--{name})")
    return value


def _label(text: str, limit: int = 24) -> str:
    """A class's name, shortened for an axis."""
    shown = printable(text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@dataclass(frozen=True)
class Curve:
    """Validation scores of one split over C."""

    name: str
    values: Sequence[float]
    """One per value of C, 0 to 1."""
    chosen: float | None
    """The chosen C; None if each class has its own."""


def cost_curve(folder: Path, Cs: Sequence[float], curves: Sequence[Curve], measure: str) -> Html:
    """Validation score over C: a line per split, a dot at the chosen C."""
    with Canvas(5.2, 3) as canvas:
        (axes,) = canvas.axes
        for number, curve in enumerate(curves):
            values = 100 * np.asarray(curve.values, dtype=float)
            style = ("-", "--", ":", "-.")[number % 4]
            axes.plot(Cs, values, style, color=COLOURS["accent"], lw=1.5, label=_label(curve.name))
            if curve.chosen is not None:
                at = list(Cs).index(curve.chosen)
                axes.plot([curve.chosen], [values[at]], "o", color=COLOURS["second"], ms=6, zorder=3)
        axes.set(xscale="log", xlabel="C", ylabel=f"validation {measure} (%)")
        axes.set_xticks(Cs, [f"{C:.3g}" for C in Cs])
        axes.minorticks_off()
        axes.grid(alpha=0.6)
        if len(curves) > 1:
            axes.legend()
        words = "; ".join(
            f"{curve.name}: " + ", ".join(f"C {C:.3g} {100 * v:.1f}" for C, v in zip(Cs, curve.values, strict=True))
            for curve in curves
        )
        plot = canvas.save(folder, "validation", f"Validation {measure} in percent over C. {words}")
    one = any(curve.chosen is not None for curve in curves)
    chosen = "Dots mark the chosen C." if one else "Mean over the classes; each class chooses its own C."
    return figure(plot, f"Score on the validation images over C. {chosen}", class_="half")


def layer_curve(folder: Path, scores: Sequence[LayerScore], measure: str, chance: float | None) -> Html:
    """The score of each layer with its deviation over the splits, and the chance level."""
    values = [100 * one.mean for one in scores]
    # The page stretches a plot of few layers to one width: drawn narrower, its letters would grow.
    with Canvas(1.8 + 0.6 * max(len(scores), FEW_LAYERS), 3) as canvas:
        (axes,) = canvas.axes
        deviations = [100 * (one.std or 0.0) for one in scores]
        axes.errorbar(
            range(len(scores)), values, deviations, fmt="o-", color=COLOURS["accent"], lw=1.5, ms=4, capsize=3
        )
        if chance is not None:
            axes.axhline(100 * chance, color=COLOURS["muted"], lw=0.8, ls=":", label=f"chance {100 * chance:.1f} %")
            axes.legend()
        axes.set_xticks(range(len(scores)), [one.layer for one in scores], rotation=45, ha="right")
        axes.set(ylabel=f"{measure} (%)", ylim=(0, 100))
        axes.grid(alpha=0.6)
        words = ", ".join(f"{one.layer} {value:.1f}" for one, value in zip(scores, values, strict=True))
        plot = canvas.save(folder, "layers", f"{measure} of each layer in percent: {words}")
    few = "half" if len(scores) <= FEW_LAYERS else None
    return figure(plot, f"The {measure} of each layer by itself. Bars: deviation over the splits.", class_=few)


def class_bars(folder: Path, names: Sequence[str], values: Sequence[float], measure: str) -> None:
    """A bar per class, lowest first, written as files only: the page's class table has its own bars."""
    order = np.argsort(np.nan_to_num(values, nan=-1.0), kind="stable")
    with Canvas(7, 0.8 + 0.17 * len(names)) as canvas:
        (axes,) = canvas.axes
        axes.barh(range(len(names)), 100 * np.nan_to_num(np.asarray(values, float)[order]), color=COLOURS["accent"])
        axes.set_yticks(range(len(names)), [_label(names[k]) for k in order], fontsize=7)
        axes.set(xlabel=f"{measure} (%)", xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
        axes.grid(axis="x", alpha=0.6)
        canvas.save(folder, "classes", f"{measure} of each class")


NUMBERED = 15
"""Up to this many classes the confusion matrix shows its shares as numbers."""

NAMED = 120
"""Up to this many class names fit on the axes of the confusion matrix."""


FEW_LAYERS = 8
"""Up to this many layers the plot takes half of the page's width."""

SQUARE = 40
"""Larger matrices take the page's whole width."""

RASTER = "#3d8fe0"
"""Colour of matrices that are a raster: visible on light and dark."""


def confusion_matrix(
    folder: Path, names: Sequence[str], counts: NDArray[np.int64], splits: int, kind: str = "test"
) -> Html:
    """The confusion matrix as shares of its rows.

    Args:
        folder: where to write.
        names: K classes.
        counts: (K, K) test images of each class (row) that were given each class (column).
        splits: over how many splits these are summed.
        kind: which images these are: test, validation.
    """
    k = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 5 if k <= NUMBERED else 7.5 if k <= SQUARE else 12
    with Canvas(side, side) as canvas:
        (axes,) = canvas.axes
        _cells(axes, np.sqrt(shares) * (0.55 if k <= NUMBERED else 1))
        if k <= NAMED:
            size = min(8, 0.75 * 0.85 * 72 * side / k)
            labels = [_label(name, 18) for name in names]
            axes.set_xticks(range(k), labels, rotation=90, fontsize=size)
            axes.set_yticks(range(k), labels, fontsize=size)
        axes.set(xlabel="classified as", ylabel="class")
        if k <= NUMBERED:
            for row, column in np.argwhere(counts > 0):
                axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center")
        right = np.trace(counts) / max(int(counts.sum()), 1)
        words = f"Confusion matrix of {number_of(k, 'class')}; {100 * right:.1f} percent of all images right"
        plot = canvas.save(folder, "confusion", words)
    over = ", over all splits" if splits > 1 else ""
    caption = (
        f"Share of each class's {kind} images (rows) that each class received (columns){over}. "
        "Stronger colour means more; faint colours are raised to show rare confusions."
    )
    return figure(plot, caption, class_="square" if k <= SQUARE else None)


def _cells(axes: Any, strength: NDArray[np.float64]) -> None:
    """(K, K) squares of one colour with these opacities, which suits a light and a dark ground.

    Up to `NAMED` classes they are vector graphics, whose colour follows the page; larger matrices are a raster.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    k = len(strength)
    if k > NAMED:
        cells = np.empty((k, k, 4))
        cells[..., :3], cells[..., 3] = to_rgb(RASTER), strength
        axes.imshow(cells, interpolation="none")
        return
    for row, column in np.argwhere(strength > 0):
        square = Rectangle((column - 0.5, row - 0.5), 1, 1, color=COLOURS["accent"], alpha=strength[row, column], lw=0)
        axes.add_patch(square)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal")


def precision_recall(folder: Path, rankings: Sequence[Ranking], of: int) -> Html:
    """Precision over recall, a small plot per class."""
    columns = 4
    rows = -(-len(rankings) // columns)
    with Canvas(9, 1.9 * rows + 0.3, rows, columns) as canvas:
        for axes, ranking in zip(canvas.axes, rankings, strict=False):
            axes.fill_between(ranking.recall, ranking.precision, color=COLOURS["accent"], alpha=0.18, lw=0)
            axes.plot(ranking.recall, ranking.precision, color=COLOURS["accent"], lw=1.2)
            axes.set_title(f"{_label(ranking.name, 18)}  {100 * ranking.ap:.1f}", loc="left")
            axes.set(xlim=(0, 1), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.tick_params(labelsize=7)
        for axes in canvas.axes[len(rankings) :]:
            axes.set_visible(False)
        canvas.figure.supxlabel("recall", fontsize=9)
        canvas.figure.supylabel("precision", fontsize=9)
        words = ", ".join(f"{one.name} {100 * one.ap:.1f}" for one in rankings)
        plot = canvas.save(folder, "precision-recall", f"Precision over recall. Average precision in percent: {words}")
    which = "" if len(rankings) == of else f" The {number_of(len(rankings), 'class')} with the lowest AP, of {of}."
    scrolled = tag("div", plot, class_="scroll many", role="region", tabindex="0", aria_label="Precision over recall")
    return figure(scrolled, f"Precision over recall on the test images of the first split, with AP in %.{which}")
