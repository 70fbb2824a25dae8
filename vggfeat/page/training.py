"""The page of a training run: its curves and epochs (Sect. 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggfeat.page import parts, plots
from vggfeat.page.commands import train_command
from vggfeat.page.curves import curves_figure, epochs_of
from vggfeat.page.html import PAGE, document, section, table, tag
from vggfeat.system.files import replacing
from vggfeat.training.recipe import load_recipe
from vggfeat.training.state import RunFiles, read_metrics


def page_of_run(folder: str | Path, files: RunFiles, output: str, data: str) -> Path:
    """The page of a run, from its metrics and its resolved recipe.

    Args:
        folder: the page's.
        files: the run's.
        output, data: the run's output and its images, for the command that repeats it.
    """
    recipe = load_recipe(files.recipe)
    sgd, schedule = recipe.sgd, recipe.schedule
    made = {
        "net": f"{recipe.net}, width {recipe.width:g}, S {recipe.augment.label}, precision {recipe.precision}",
        "data": recipe.data.dataset,
        "updates": f"batch {sgd.batch_size}, rate {sgd.learning_rate:g}, momentum {sgd.momentum:g}, "
        f"weight decay {sgd.weight_decay:g}, dropout {sgd.dropout:g}",
        "schedule": f"at most {schedule.epochs} epochs; {schedule.decreases} decreases by {schedule.divisor:g}",
        "checkpoint": str(files.best),
    }
    title = f"Net {recipe.net} trained on {recipe.data.dataset}"
    command = train_command(asdict(recipe), output, data)
    return write_page(folder, title, read_metrics(files.metrics), made, [command], measure=schedule.measure)


def write_page(
    folder: str | Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    made: Mapping[str, str],
    commands: Sequence[str],
    *,
    measure: str,
) -> Path:
    """Writes folder/index.html, and curves.svg and curves.png beside it, and returns the page's path.

    Args:
        folder: the page's.
        title: names the net and the data set.
        rows: the lines of metrics.jsonl.
        made: how the net was trained: aspect -> description.
        commands: command lines that repeat it.
        measure: the recipe's `schedule.measure`, which chooses the best checkpoint.
    """
    folder = Path(folder)
    drawn = plots.place(folder)
    epochs = epochs_of(rows)
    # As training chooses its best checkpoint: the loss decides between equals, then the earlier epoch.
    best = min(epochs, key=lambda row: (row[f"val_{measure}"], row["val_loss"]), default=None)
    lead = []
    if best is not None:
        words = f"validation top-1 error of the best epoch, {best['epoch']} of {len(epochs)} (least {measure})"
        lead.append(tag("p", f"{best['val_top1']:.1f} %", tag("small", words), class_="headline"))
    shown = []
    if drawn is None:
        lead.append(tag("p", f"{plots.NEEDED}.", class_="note"))
    elif epochs:
        shown.append(curves_figure(drawn, rows))
    columns = [("loss", "loss", ".3f"), ("top1", "top-1 %", ".1f"), ("top5", "top-5 %", ".1f")]
    if not any(row["top5"] or row["val_top5"] for row in epochs):  # five classes or fewer
        columns.pop()
    heads = ("epoch", *(head for _, head, _ in columns), *(f"validation {head}" for _, head, _ in columns), "rate")
    cells = [
        (
            row["epoch"],
            *(format(row[f"{part}{name}"], form) for part in ("", "val_") for name, _, form in columns),
            f"{row['rate']:g}",
        )
        for row in epochs
    ]
    ours = epochs.index(best) if best is not None else None
    caption = "Loss and errors over the epochs; the best one is set off"
    sections = [
        section("curves", "Curves", *shown, table(caption, heads, cells, text=(), ours=ours)),
        parts.made(made, commands),
    ]
    path = folder / PAGE
    with replacing(path) as temporary:
        temporary.write_text(document(title, lead, sections), encoding="utf-8")
    return path
