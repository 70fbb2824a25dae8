"""The page of a training run: its curves and epochs (Sect. 3.1), and what its best net mistakes for what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggfeat.datasets.split import TrainingSet
from vggfeat.metrics import TOP, chance_topk_error
from vggfeat.nets.wording import size_words
from vggfeat.page import parts, plots
from vggfeat.page.commands import next_commands, resumed, train_command
from vggfeat.page.curves import Row, curves_figure, epochs_of
from vggfeat.page.evidence import Predictions
from vggfeat.page.html import PAGE, Html, Part, commands, document, percent, section, table, tag
from vggfeat.page.pictures import Pictures, title_of
from vggfeat.system.files import replacing
from vggfeat.system.numbers import number_of
from vggfeat.training.files import RunFiles
from vggfeat.training.recipe import load_recipe
from vggfeat.training.state import read_metrics

if TYPE_CHECKING:  # imports torch
    from vggfeat.training.predicted import Predicted

_MEASURES = {"top1": "top-1 error", "top5": "top-5 error", "loss": "loss"}

MISTAKES = 60
"""Most mistakes shown: thumbnails are embedded, about 5 kB each."""


@dataclass(frozen=True)
class Judged:
    """What the best net answers for the validation images."""

    names: Sequence[str]
    """K classes."""
    answers: Predictions
    """Of the images that could be read."""
    pictures: Pictures
    """Their thumbnails."""
    of: str
    """Whose answers these are, in words."""

    @classmethod
    def by(cls, predicted: Predicted, dataset: TrainingSet, best: Path, title: str) -> Judged:
        """From a run's predictions and its images."""
        guesses = predicted.guesses.numpy()
        rows = np.flatnonzero(guesses >= 0)
        unread = len(guesses) - len(rows)
        answers = Predictions(
            [dataset.val[row].id for row in rows],
            np.array([dataset.val[row].labels for row in rows], dtype=np.int64),
            guesses[rows],
            predicted.confidence.numpy()[rows],
            predicted.own.numpy()[rows],
        )
        of = f"Answers of {best}, the net of epoch {predicted.epoch}, on the central crop of "
        of += number_of(len(rows), "validation image") + (f"; {unread} could not be read." if unread else ".")
        return cls(dataset.class_names, answers, Pictures(dataset.val, exif=dataset.exif, title=title), of)


@dataclass(frozen=True)
class TrainingReport:
    """What the page of a training run shows."""

    title: str
    """Names the net and the data set."""
    rows: Sequence[Row]
    """The lines of metrics.jsonl."""
    made: Mapping[str, str]
    """How the net was trained: aspect -> description."""
    repeat: Sequence[str]
    """Command lines that train it again."""
    measure: str
    """The recipe's `schedule.measure`, which chooses the best checkpoint."""
    classes: int
    localises: bool = False
    """Whether the net learns boxes."""
    judged: Judged | None = None
    """None for boxes, and for a run of an earlier version."""
    following: Sequence[str] = ()
    """Command lines that use the net."""

    @property
    def epochs(self) -> list[Row]:
        """The rows of whole epochs."""
        return epochs_of(self.rows)

    @property
    def best(self) -> Row | None:
        """The best epoch, as training chooses it: the loss decides between equals, then the earlier epoch."""
        judged = [row for row in self.epochs if not math.isnan(row["val_loss"])]  # some validation image was read
        return min(judged, key=lambda row: (row[f"val_{self.measure}"], row["val_loss"]), default=None)


def page_of_run(
    folder: str | Path, files: RunFiles, output: str, data: str, dataset: TrainingSet, predicted: Predicted | None
) -> Path:
    """The page of a run, from its metrics, its resolved recipe and what its best net predicts.

    Args:
        folder: the page's.
        files: the run's.
        output, data: the run's output and its data root, for the commands.
        dataset: its images.
        predicted: of the validation images; None for boxes, and for a run of an earlier version.
    """
    recipe = load_recipe(files.recipe)
    sgd, schedule = recipe.sgd, recipe.schedule
    net = size_words(recipe.net, recipe.width)
    made = {
        "net": f"{net}, S {recipe.augment.label}, precision {recipe.precision}",
        "data": f"{dataset.name} in {data}: {number_of(len(dataset.class_names), 'class')}, "
        f"{number_of(len(dataset.train), 'image')} to train, "
        f"{len(dataset.val)} to validate",
        "updates": f"batch {sgd.batch_size}, rate {sgd.learning_rate:g}, momentum {sgd.momentum:g}, "
        f"weight decay {sgd.weight_decay:g}, dropout {sgd.dropout:g}",
        "schedule": f"at most {number_of(schedule.epochs, 'epoch')}; {number_of(schedule.decreases, 'decrease')} by "
        f"{schedule.divisor:g}",
        "checkpoint": str(files.best),
    }
    name = title_of(dataset.name, data)
    localises = recipe.task == "localise"
    report = TrainingReport(
        f"Net {net}{',' if net != recipe.net else ''} trained on {name or dataset.name}"
        + (" to localise" if localises else ""),
        read_metrics(files.metrics),
        made,
        [resumed(train_command(asdict(recipe), output, data, folder))],
        schedule.measure,
        len(dataset.class_names),
        localises,
        None if predicted is None else Judged.by(predicted, dataset, files.best, name),
        next_commands(files.best, dataset, data, folder, localises=localises),
    )
    return write_page(folder, report)


def write_page(folder: str | Path, report: TrainingReport) -> Path:
    """Writes folder/index.html, with the plots beside it as SVG and PNG files, and returns the page's path."""
    folder = Path(folder)
    drawn = plots.place(folder)
    sections = [_curves(report, drawn)]
    if report.judged is not None:
        sections += _mistakes(report.judged, drawn)
    if report.following:
        sections.append(section("next", "What to do next", commands(report.following)))
    sections.append(parts.made(report.made, report.repeat))
    path = folder / PAGE
    with replacing(path) as temporary:
        temporary.write_text(document(report.title, _lead(report, drawn), sections), encoding="utf-8", newline="\n")
    return path


def _lead(report: TrainingReport, drawn: Path | None) -> list[Html]:
    """The best epoch's error in large type, and what the page lacks."""
    lead, best = [], report.best
    if best is not None:
        which = f"the best epoch, {best['epoch']} of {len(report.epochs)} (least {_MEASURES[report.measure]})"
        if report.localises:
            words = f"validation error of the boxes at {which}"
        else:
            words = f"validation top-1 error of {which}; chance {chance_topk_error(report.classes, 1):.1f} %"
        lead.append(tag("p", f"{best['val_top1']:.1f} %", tag("small", words), class_="headline"))
    if drawn is None:
        lead.append(tag("p", f"{plots.NEEDED}.", class_="note"))
    if best is not None and not report.localises and report.judged is None:
        words = "No confusions: the best epoch was trained by a version of vggfeat that did not keep its answers."
        lead.append(tag("p", words, class_="note"))
    return lead


def _curves(report: TrainingReport, drawn: Path | None) -> Part:
    """The plot, and a line for each epoch."""
    epochs, best = report.epochs, report.best
    measures = [("loss", "loss", ".3f"), ("top1", "top-1 %", ".1f")]
    if report.localises:
        measures[1] = ("top1", "error %", ".1f")
    elif report.classes > TOP:
        measures.append(("top5", "top-5 %", ".1f"))
    heads = ("epoch", *(name for _, name, _ in measures), *(f"val {name}" for _, name, _ in measures), "rate")
    cells = [
        (
            row["epoch"],
            *(f"{row[f'{part}{name}']:{form}}" for part in ("", "val_") for name, _, form in measures),
            f"{row['rate']:g}",
        )
        for row in epochs
    ]
    ours = epochs.index(best) if best is not None else None
    shown = [curves_figure(drawn, report.rows)] if drawn is not None and epochs else []
    caption = "Loss and errors in training and in validation (val), by epoch; the best one is set off"
    if not report.localises:
        errors = [f"{chance_topk_error(report.classes, k):.1f} % top-{k}" for k in (1, TOP) if k < report.classes]
        caption += f". Chance: {' and '.join(errors)} error"
    return section("curves", "Curves", *shown, table(caption, heads, cells, text=(), ours=ours))


def _mistakes(judged: Judged, drawn: Path | None) -> list[Part]:
    """Which classes are taken for which, and the mistakes that the net was surest of."""
    names, answers, pictures = judged.names, judged.answers, judged.pictures
    rows = answers.surest_mistakes(MISTAKES)
    if not rows:
        return [parts.confusions(names, [answers], pictures, drawn, "validation", judged.of)]
    pictures.prepare(answers.ids[row] for row in rows)
    items = [
        pictures.show(
            answers.ids[row],
            f"{percent(answers.confidence[row])} % {names[answers.guesses[row]]}",
            tag("span", f"in fact {names[answers.labels[row]]}", class_="wrong"),
        )
        for row in rows
    ]
    total = int((answers.guesses != answers.labels).sum())
    which = f"The {len(rows)} of {total} mistakes" if total > len(rows) else "All mistakes"
    words = (
        f"{which}, surest first: the class given with its probability, then the image's own class. "
        "The probabilities are those of the central crop; the predict command looks at the whole image."
    )
    shown = [tag("p", words, class_="sub"), *parts.not_shown(pictures), tag("ul", *items, class_="thumbs mistakes")]
    return [
        parts.confusions(names, [answers], pictures, drawn, "validation", judged.of),
        section("mistakes", "The surest mistakes", *shown),
    ]
