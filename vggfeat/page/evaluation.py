"""The page of an evaluation: top-1 and top-5 errors beside the paper's (Sect. 4), and what stands behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggfeat.inference.evaluation import Evaluation, Row
from vggfeat.metrics import TOP, chance_topk_error, class_recalls
from vggfeat.page import parts, plots
from vggfeat.page.evidence import Scored
from vggfeat.page.html import NONE, PAGE, Html, Part, document, error_rate, percent, section, table, tag
from vggfeat.page.paper import CLASSIFICATION
from vggfeat.page.pictures import Pictures
from vggfeat.system.files import replacing
from vggfeat.system.numbers import number_of


def write_page(
    folder: str | Path,
    result: Evaluation,
    names: Sequence[str],
    scored: Scored,
    commands: Sequence[str],
    pictures: Pictures,
) -> Path:
    """Writes folder/index.html, and the plots beside it as SVG and PNG files, and returns the page's path.

    Args:
        folder: where to.
        result: what the evaluation found.
        names: K classes.
        scored: the images with their labels and (n, K) posteriors; failed ones left out.
        commands: command lines that repeat the evaluation.
        pictures: the images' thumbnails.
    """
    folder = Path(folder)
    drawn = plots.place(folder)
    recalls = class_recalls(scored.labels, scored.guesses, len(names)).tolist()
    counts = np.bincount(scored.labels, minlength=len(names))
    terms = {
        f"row {at}": f"net {row.nets}, view {row.view}, Q {_numbers(row.scales)}"
        for at, row in enumerate(result.rows, start=1)
    }
    more = parts.precision_and_f1([scored], len(names))
    title = f"{pictures.title or result.dataset}: {_errors(result.rows[-1])}"
    sections = [
        _score(result, pictures.title),
        parts.classes(names, recalls, counts, "top-1 accuracy", "on the images evaluated", drawn, **more),
        parts.confusions(names, [scored], pictures, drawn),
        parts.images(
            names, scored, recalls, pictures, "Images with their posterior probability of the class, in %", percent
        ),
        parts.made(terms, commands),
    ]
    text = document(title, _lead(result, drawn, pictures), sections)
    path = folder / PAGE
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def _errors(row: Row) -> str:
    top5 = "" if row.top5_error is None else f", top-5 {error_rate(row.top5_error)} %"
    return f"top-1 error {error_rate(row.top1_error)} %{top5}"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _lead(result: Evaluation, drawn: Path | None, pictures: Pictures) -> list[Html]:
    row = result.rows[-1]
    random = ", random weights" if "none" in row.weights.split("+") else ""
    words = f"top-1 error; chance {chance_topk_error(result.classes, 1):.1f} %{random}"
    classes = number_of(result.classes, "class")
    lead = [
        tag("p", f"{error_rate(row.top1_error)} %", tag("small", words), class_="headline"),
        tag("p", f"{classes}, {number_of(row.images, 'image')}; {len(result.failed)} failed.", class_="sub"),
    ]
    if drawn is None:
        lead.append(tag("p", f"{plots.NEEDED}.", class_="note"))
    if pictures.missing:
        lead.append(tag("p", f"No pictures: {pictures.missing}.", class_="note"))
    return lead


def _score(result: Evaluation, title: str) -> Part:
    """Every net or file, their fusion last, what guessing scores, and the paper's rows of the same nets.

    Few classes have no top-5 error, and without the paper's no column of it.
    """
    nets = {row.net for row in result.rows} if result.dataset == "ilsvrc2012" else set()
    several = result.classes > TOP or bool(nets)
    rows: list[Sequence[Any]] = [
        (
            "this run",
            row.nets,
            row.view,
            _numbers(row.scales),
            tag("td", error_rate(row.top1_error), class_="top1"),
            *([tag("td", error_rate(row.top5_error), class_="top5")] if several else []),
        )
        for row in result.rows
    ]
    ours = len(rows) - 1
    chance = [f"{chance_topk_error(result.classes, k):.1f}" if k < result.classes else NONE for k in (1, TOP)]
    rows.append(("chance", "", "", "", *chance[: 2 if several else 1]))
    for score in CLASSIFICATION:
        if score.net in nets:
            trained = f"{score.net}, S {score.train_scale}"
            where = f"the paper, Table {score.table}"
            rows.append(
                (where, trained, "dense", _numbers(score.test_scales), f"{score.top1:.1f}", f"{score.top5:.1f}")
            )
    heads = ("", "net", "view", "Q", "top-1 error %", *(["top-5 error %"] if several else []))
    caption = f"Errors on {title or result.dataset}"
    return section("score", "Score", table(caption, heads, rows, text=(0, 1, 2, 3), ours=ours))
