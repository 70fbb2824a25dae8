"""The curves of a training run: loss and errors over the epochs (Sect. 3.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggfeat.page.html import Html, figure
from vggfeat.page.plots import Canvas
from vggfeat.page.style import COLOURS
from vggfeat.system.numbers import number_of

Row = dict[str, Any]
"""A line of metrics.jsonl."""


def curves_figure(folder: Path, rows: Sequence[Row]) -> Html:
    """The curves for a page: folder/curves.svg and curves.png. `rows` need at least one of an epoch."""
    epochs = epochs_of(rows)
    with Canvas(5.2, 6.6, 2, 1) as canvas:  # one above the other, which a phone's width leaves legible
        _draw(canvas, rows, epochs)
        last = epochs[-1]
        words = f"At the end: validation loss {last['val_loss']:.3f}, top-1 error {last['val_top1']:.1f} percent"
        plot = canvas.save(folder, "curves", f"Loss and errors over {number_of(len(epochs), 'epoch')}. {words}")
    caption = "Loss and errors over the epochs."
    if _training(rows, epochs)[1] is epochs:
        caption += " Each training value is the mean over an epoch, drawn at its middle."
    caption += " Dotted: learning rate drops." if _falls(epochs) else ""
    return figure(plot, caption, class_="half")


def save_curves(rows: Sequence[Row], path: Path) -> Path:
    """The curves as a PNG. `rows` need at least one of an epoch."""
    with Canvas(10, 4, 1, 2) as canvas:
        _draw(canvas, rows, epochs_of(rows))
        return canvas.picture(path)


def epochs_of(rows: Sequence[Row]) -> list[Row]:
    """The rows that describe whole epochs."""
    return [row for row in rows if row["kind"] == "epoch"]


def _draw(canvas: Canvas, rows: Sequence[Row], epochs: Sequence[Row]) -> None:
    """Loss first, then errors.

    A validation point stands at the end of its epoch. Training is a running mean over updates, or in short epochs the
    mean of each epoch, at its middle.
    """
    x_train, train = _training(rows, epochs)
    x = [row["epoch"] for row in epochs]
    loss, error = canvas.axes
    # A localiser has no top-5 error; among five classes or fewer it is always 0.
    one_guess = all(row["val_top5"] in (row["val_top1"], 0) for row in epochs)
    errors = [("top1", "error")] if one_guess else [("top1", "top-1"), ("top5", "top-5")]
    for axes, measures, unit in ((loss, [("loss", "loss")], "loss"), (error, errors, "error (%)")):
        for (name, label), colour in zip(measures, (COLOURS["accent"], COLOURS["second"]), strict=False):
            marker = "." if len(x_train) == len(x) else None
            axes.plot(x_train, [row[name] for row in train], marker=marker, lw=0.8, color=colour, alpha=0.6)
            axes.plot(x, [row[f"val_{name}"] for row in epochs], "o-", ms=3, color=colour)
            best = min(epochs, key=lambda row: row[f"val_{name}"])
            text = f"{label}, least {best[f'val_{name}']:.3g} at epoch {best['epoch']}"
            axes.plot([], [], "-", color=colour, label=text)
        axes.plot([], [], "o-", ms=3, color=COLOURS["muted"], label="validation, centre view")
        axes.plot([], [], lw=0.8, color=COLOURS["muted"], alpha=0.6, label="training crops")
        for epoch, rate in _falls(epochs):
            axes.axvline(epoch, color=COLOURS["muted"], lw=0.8, ls=":")
            at = {"xy": (epoch, 0.01), "xycoords": ("data", "axes fraction")}
            axes.annotate(
                f"{rate:g}", **at, color=COLOURS["muted"], fontsize=8, xytext=(2, 2), textcoords="offset points"
            )
        axes.set_xlim(0, max(x) * 1.02)
        axes.set(xlabel="epoch", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        axes.grid(alpha=0.6)
    error.set_ylim(bottom=0)


def _falls(epochs: Sequence[Row]) -> list[tuple[int, float]]:
    """The epochs after which the learning rate fell, each with the new rate."""
    pairs = itertools.pairwise(epochs)
    return [(before["epoch"], after["rate"]) for before, after in pairs if after["rate"] != before["rate"]]


def _training(rows: Sequence[Row], epochs: Sequence[Row]) -> tuple[list[float], Sequence[Row]]:
    """Positions on the axis of epochs, and rows, of the training curve: the finer rows where there are enough."""
    updates = [row for row in rows if row["kind"] == "updates"]
    if len(updates) <= len(epochs):
        return [row["epoch"] - 0.5 for row in epochs], epochs
    steps = epochs[0]["step"] / epochs[0]["epoch"]  # updates an epoch
    return [row["step"] / steps for row in updates], updates
