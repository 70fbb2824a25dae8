"""The page of an SVM run: its score beside the paper's (Appendix B), and the evidence for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggfeat.classifiers.protocols.results import SVMResult
from vggfeat.page import map as maps
from vggfeat.page import parts, plots
from vggfeat.page.evidence import Scored, rankings
from vggfeat.page.html import NONE, PAGE, Html, Part, document, percent, section, table, tag
from vggfeat.page.paper import TRANSFER, transfer_table
from vggfeat.page.pictures import Pictures
from vggfeat.page.similarity import pairs_table
from vggfeat.store.choices import LAYER_SEPARATOR
from vggfeat.system.files import replacing
from vggfeat.system.numbers import number_of

CURVES = 24
"""Most classes with a curve of precision over recall."""

_SCORES = "Test images of the first split with their scores w x + b: 0 on the class's hyperplane, 1 on its margin"


@dataclass(frozen=True)
class Report:
    """What the page of an SVM run shows."""

    result: SVMResult
    """Its scores."""
    splits: Sequence[Scored]
    """The test images of each split."""
    made: Mapping[str, str]
    """How it was made, in words, by topic."""
    commands: Sequence[str]
    """Command lines that repeat it."""
    notes: Sequence[str] = ()
    """What a reader should know of them."""
    placed: maps.Placed | None = None
    """A map of the first split's test images."""
    changes: Sequence[str] = ()
    """What was chosen otherwise than the benchmark's protocol prescribes, in words."""

    @property
    def names(self) -> list[str]:
        """The classes."""
        return list(self.result.per_class)

    @property
    def multi(self) -> bool:
        """Whether an image may be of several classes."""
        return self.result.measure == "mAP"

    @property
    def measure(self) -> str:
        """Name of the score."""
        return "mAP" if self.multi else "mean class recall"

    @property
    def class_measure(self) -> str:
        """Name of a class's score."""
        return "AP" if self.multi else "recall"


def write_page(folder: str | Path, report: Report, pictures: Pictures) -> Path:
    """Writes folder/index.html, with the plots beside it as SVG and PNG files; returns the page's path."""
    folder = Path(folder)
    result = report.result
    drawn = plots.place(folder)
    sections = [
        _score(report, pictures.title),
        _splits(report),
        _choice(report, drawn),
        _layers(report, drawn),
        _classes(report, drawn),
        _rankings(report, drawn) if report.multi else parts.confusions(report.names, report.splits, pictures, drawn),
        _map(report, pictures),
        _copies(result, pictures),
        parts.images(report.names, report.splits[0], list(result.per_class.values()), pictures, _SCORES),
        parts.made(report.made, report.commands, report.notes),
    ]
    text = document(
        f"{pictures.title or result.dataset}: {report.measure} {_score_words(result)}",
        _lead(report, drawn, pictures),
        [part for part in sections if part is not None],
    )
    path = folder / PAGE
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def _score_words(result: SVMResult) -> str:
    deviation = "" if result.std is None else f" ± {percent(result.std)}"
    return f"{percent(result.mean)}{deviation} %"


def _compared(result: SVMResult) -> str:
    """The chance level; and a warning where the net is not trained at all."""
    random = ", random weights" if any("none" in one["weights"].split("+") for one in result.descriptors) else ""
    return f"chance {percent(result.chance)} %{random}"


def _lead(report: Report, drawn: Path | None, pictures: Pictures) -> list[Html]:
    """The score in large type, what was scored, and what the page leaves out."""
    result = report.result
    images = sum(len(split.ids) for split in report.splits)
    splits = f"{len(report.splits)} splits" if len(report.splits) > 1 else "one split"
    counts = f"{number_of(len(report.names), 'class')}, {number_of(images, 'test image')}"
    nets = ", ".join(f"net {one['nets']} at Q {parts.numbers(one['scales'])}" for one in result.descriptors)
    lead = [
        tag("p", _score_words(result), tag("small", f"{report.measure}; {_compared(result)}"), class_="headline"),
        tag("p", f"{counts} in {splits}; {nets}.", class_="sub"),
    ]
    if drawn is None:
        lead.append(tag("p", f"{plots.NEEDED}.", class_="note"))
    if pictures.missing:
        lead.append(tag("p", f"No pictures: {pictures.missing}.", class_="note"))
    if result.copies:
        words = (
            number_of(len(result.copies), "test image seems", "test images seem") + " to be among the training images"
        )
        lead.append(
            tag("p", f"{words}, which raises the score: see ", tag("a", "Copies", href="#copies"), ".", class_="note")
        )
    if result.left_out:
        first = result.left_out[0]
        count = len(result.left_out)
        words = f"{count} images without a descriptor are left out, {first} first."
        if count == 1:
            words = f"One image without a descriptor is left out: {first}."
        lead.append(tag("p", words, class_="note"))
    return lead


def _copies(result: SVMResult, pictures: Pictures) -> Part | None:
    """Test images that seem to be training images too; None without any."""
    if not result.copies:
        return None
    pairs = [{"ids": (copy.test, copy.train), "cosine": copy.cosine} for copy in result.copies]
    words = (
        "The same picture seems to be in the training and the test part of a split, which raises the score. "
        "The cosine is that of the descriptors about their training mean."
    )
    caption = "Each test image (left) with the training image that its descriptor nearly equals"
    return section("copies", "Copies", tag("p", words, class_="note"), pairs_table(pairs, pictures, caption))


def _score(report: Report, title: str) -> Part:
    """This run's score above the paper's for the same benchmark."""
    result = report.result
    rows: list[Sequence[Any]] = [
        ("this run", _nets(report), _setting(report), tag("td", _score_words(result), class_="score"))
    ]
    published = TRANSFER.get(result.dataset, ())
    for score in published:
        deviation = "" if score.std is None else f" ± {score.std:.1f}"
        rows.append(("the paper", " and ".join(score.nets), score.setting, f"{score.value:.1f}{deviation} %"))
    made = table(
        f"{report.measure} on {title or result.dataset}"
        + (f"; the paper's from {transfer_table(result.dataset)}" if published else ""),
        ("", "nets", "setting", report.measure),
        rows,
        text=(0, 1, 2),
        ours=0 if published else None,
    )
    notes = []
    if published and report.changes:
        notes.append(f"This run changed the paper's protocol: {_listed(report.changes)}.")
    if result.dataset.startswith("voc2012"):
        notes.append("This run is scored on val, whose labels are public; only VOC-2012's server has the test labels.")
    if result.std is not None:
        notes.append("Mean and deviation (n - 1) over the splits.")
    if report.multi:
        eleven = result.definition == "voc2007"
        kind = "at 11 recalls, as in VOC-2007" if eleven else "the area under the curve, as from VOC-2010 on"
        notes.append(f"Average precision: {kind}.")
    return section("score", "Score", made, *(tag("p", note, class_="sub") for note in notes))


def _nets(report: Report) -> str:
    return " and ".join(one["nets"] for one in report.result.descriptors)


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])


def _setting(report: Report) -> str:
    made = dict.fromkeys(", ".join(_of_file(one)) for one in report.result.descriptors)
    return "; ".join(made)


def _of_file(one: Mapping[str, Any]) -> list[str]:
    """The scales, then what differs from Appendix B: the layer, how it was taken, and mirror images left out."""
    scales = f"Q {parts.numbers(one['scales'])}"
    layer = _listed(one["layer"].split(LAYER_SEPARATOR))
    return [
        f"{one['aggregate']} over {scales}" if len(one["scales"]) > 1 else scales,
        *([] if layer == "fc7" else [f"layer {layer}"]),
        *([] if one["flip"] else ["no mirror image"]),
        *parts.taken(one),
    ]


def _splits(report: Report) -> Part:
    rows = []
    for number, split in enumerate(report.result.splits, start=1):
        name = f"fold {split.fold + 1}" if split.fold is not None else str(number)
        seed = NONE if split.seed is None else split.seed
        C = "per class" if isinstance(split.C, dict) else f"{split.C:.3g}"
        gap = NONE if split.duality_gap != split.duality_gap else f"{split['duality_gap']:.0e}"
        value = tag("td", percent(split.value), class_="value")
        rows.append((name, seed, split.train, split.val, split.test, C, value, gap))
    heads = ("split", "seed", "train", "val", "test", "C", f"{report.measure} %", "duality gap")
    C = "given" if len(report.result.C) == 1 else "chosen on the validation part"
    caption = f"Images of each part, the C {C}, and the score on the test part"
    return section("splits", "Splits", table(caption, heads, rows, text=()))


def _choice(report: Report, folder: Path | None) -> Part | None:
    """The validation curve; None if only one C was given."""
    chosen = [
        (f"split {number}", split, [point["value"] for point in split.validation])
        for number, split in enumerate(report.result.splits, start=1)
        if split.validation
    ]
    if not chosen:
        return None
    Cs = report.result.C
    shown: list[Html] = []
    if folder is not None:
        curves = [
            plots.Curve(name, values, None if isinstance(split.C, dict) else split.C) for name, split, values in chosen
        ]
        shown.append(plots.cost_curve(folder, Cs, curves, report.measure))
    rows = [(f"{C:.3g}", *(percent(values[at]) for _, _, values in chosen)) for at, C in enumerate(Cs)]
    heads = ("C", *(f"{name} %" for name, _, _ in chosen))
    shown.append(table(f"Validation {report.measure} of each C", heads, rows, text=()))
    return section("cost", "Choice of C", *shown)


def _layers(report: Report, folder: Path | None) -> Part | None:
    """Each layer's score by itself; None unless the run asked for it."""
    scores = report.result.by_layer
    if scores is None:
        return None
    rows = [
        (one.layer, one.dim, percent(one.mean), NONE if one.std is None else percent(one.std), percent(min(one.values)))
        for one in scores
    ]
    heads = ("layer", "values", f"{report.measure} %", "deviation", "least of the splits")
    anew = "" if len(report.result.C) == 1 else ", C chosen anew"
    made = table(f"Each layer by itself{anew}", heads, rows, text=(0,))
    drawing = [] if folder is None else [plots.layer_curve(folder, scores, report.measure, report.result.chance)]
    return section("layers", "Layers", *drawing, made)


def _classes(report: Report, folder: Path | None) -> Part:
    values = list(report.result.per_class.values())
    counts = np.zeros(len(report.names), dtype=int)
    for split in report.splits:
        if split.labels.ndim == 2:
            counts += (split.labels == 1).sum(axis=0)
        else:
            counts += np.bincount(split.labels, minlength=len(report.names))
    by_class = [split.C for split in report.result.splits if isinstance(split.C, dict)]
    costs = [", ".join(f"{C[name]:.3g}" for C in by_class) for name in report.names] if by_class else []
    of = "mean over the splits" if len(report.splits) > 1 else "on the test part"
    more = {"C": costs} if report.multi else parts.precision_and_f1(report.splits, len(report.names))
    return parts.classes(report.names, values, counts, report.class_measure, of, folder, **more)


def _rankings(report: Report, folder: Path | None) -> Part | None:
    if folder is None:
        return None
    aps = list(report.result.splits[0].per_class.values())
    drawn = rankings(report.splits[0], report.names, aps, CURVES)
    return section("curves", "Precision and recall", plots.precision_recall(folder, drawn, len(report.names)))


def _map(report: Report, pictures: Pictures) -> Part | None:
    if report.placed is None:
        return None
    split = report.splits[0]
    at = {id: row for row, id in enumerate(split.ids)}
    rows = [at[id] for id in report.placed.ids]
    return maps.section_of(report.placed, report.names, split.labels[rows], split.guesses[rows], pictures)


def provenance(
    descriptors: Sequence[Mapping[str, Any]], result: SVMResult, versions: Mapping[str, str]
) -> dict[str, str]:
    """How an SVM run was made, in words.

    Args:
        descriptors: per file its attributes (`Descriptors.attributes`) with `path` and the `aggregate` in use.
        result: the run's result.
        versions: of the libraries that fitted it.
    """
    made: dict[str, str] = {}
    for at, one in enumerate(descriptors, start=1):
        prefix = f"file {at}: " if len(descriptors) > 1 else ""
        made |= parts.described(one, prefix)
    made["classifiers"] = (
        f"one-vs-rest linear SVMs, {result.loss.replace('_', ' ')} loss, solver {result.solver}, "
        f"C from {', '.join(f'{C:.3g}' for C in result.C)}"
    )
    made["fitted with"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return made
