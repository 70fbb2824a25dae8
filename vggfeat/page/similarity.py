"""The page of similar images: pictures beside their nearest neighbours, or pairs of near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vggfeat.page.html import PAGE, Html, Part, document, section, table, tag
from vggfeat.page.pictures import Pictures
from vggfeat.system.files import replacing
from vggfeat.system.numbers import number_of

SHOWN = 200
"""Most pictures or pairs on a page: thumbnails are embedded, about 5 kB each."""


def write_page(
    folder: str | Path, result: Mapping[str, Any], asked: Pictures | None, held: Pictures, made: Part
) -> Path:
    """Writes folder/index.html and returns its path.

    Args:
        folder: where to.
        result: the JSON of `stages.similar.Similar`.
        asked: thumbnails of the pictures that neighbours were sought for.
        held: thumbnails of the images in the descriptor file.
        made: the section on how it was made (`parts.made`).
    """
    name = Path(result["features"]).name
    if asked is None:
        title = f"{name}: {number_of(result['found'], 'pair')} of near-duplicates"
        parts = [_pairs(result["pairs"], result["found"], held)]
    else:
        title = f"{name}: neighbours of {number_of(len(result['queries']), 'picture')}"
        parts = [_queries(result["queries"], asked, held)]
    words = f"Similarity is the cosine between descriptors of net {result['nets']}: 1 is the same direction."
    lead = [tag("p", words, class_="sub")]
    if held.missing:
        lead.append(tag("p", f"No pictures: {held.missing}.", class_="note"))
    path = Path(folder) / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(document(title, lead, [*parts, made]), encoding="utf-8", newline="\n")
    return path


def _pairs(pairs: Sequence[Mapping[str, Any]], found: int, held: Pictures) -> Part:
    if not pairs:
        return section("pairs", "Near-duplicates", tag("p", "No two images are as similar as that."))
    return section("pairs", "Near-duplicates", pairs_table(pairs, held, "Pairs of images", found))


def pairs_table(pairs: Sequence[Mapping[str, Any]], held: Pictures, what: str, found: int | None = None) -> Html:
    """Pairs of images side by side.

    Args:
        pairs: each with its `ids` and `cosine`, most similar first.
        held: their thumbnails.
        what: what the pairs are.
        found: how many there are in all; by default those given.
    """
    shown = pairs[:SHOWN]
    held.prepare(id for pair in shown for id in pair["ids"])
    rows = [
        (
            tag("td", f"{pair['cosine']:.4f}", data_label="cosine"),
            _pictured([held.named(id) for id in pair["ids"]], "images"),
        )
        for pair in shown
    ]
    caption = f"{what}, most similar first" + _first(len(shown), found or len(pairs))
    return table(caption, ("cosine", "images"), rows, text=(1,), class_="images")


def _queries(queries: Sequence[Mapping[str, Any]], asked: Pictures, held: Pictures) -> Part:
    shown = queries[:SHOWN]
    asked.prepare(query["id"] for query in shown if "matches" in query)
    held.prepare(match["id"] for query in shown for match in query.get("matches", ()))
    rows = [(_pictured([asked.named(query["id"])], "picture"), _matches(query, held)) for query in shown]
    caption = "Pictures and the images that are most similar to them, with their cosines" + _first(
        len(shown), len(queries)
    )
    heads = ("picture", "most similar images")
    return section("queries", "Neighbours", table(caption, heads, rows, text=(0, 1), class_="wide images"))


def _matches(query: Mapping[str, Any], held: Pictures) -> Html:
    if "error" in query:
        return tag("td", f"not described: {query['error']}", class_="text", data_label="most similar images")
    items = [held.named(match["id"], f"{match['cosine']:.3f} ") for match in query["matches"]]
    return _pictured(items, "most similar images")


def _pictured(items: Sequence[Html], label: str) -> Html:
    return tag("td", tag("ul", *items, class_="thumbs"), class_="text", data_label=label)


def _first(shown: int, total: int) -> str:
    return f"; the first {shown} of {total}" if shown < total else ""
