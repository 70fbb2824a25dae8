"""Builds HTML. Any value that is not `Html` is text and gets escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vggfeat._version import __version__
from vggfeat.page.style import STYLE
from vggfeat.system.files import check_replaceable, is_file
from vggfeat.system.text import printable


class Html(str):
    """A string that is already HTML."""

    __slots__ = ()


PAGE = "index.html"
"""File name of a report page in its folder."""

PLOTS = ("validation", "layers", "classes", "confusion", "precision-recall")
"""Names of the plots beside a page, as .svg and .png; a training run's curves may lie there without a page."""

NONE = "-"
"""Content of a cell without a value."""

Part = tuple[str, str, Html]
"""A section of a page: anchor, heading, element."""

LONG = 13
"""Shorter words are not broken."""

_VOID = frozenset({"img", "meta", "col"})

_FLAG = re.compile(r"(?<= )--?\w[\w-]*")


def escaped(value: Any) -> Html:
    """Any value as HTML; text is made printable and escaped."""
    return value if isinstance(value, Html) else Html(html.escape(printable(str(value))))


def breakable(text: str) -> Html:
    """Text whose long words, such as paths, break in a narrow column where a reader would break them."""
    return Html(re.sub(rf"\S{{{LONG},}}", lambda word: "/<wbr>".join(map(_broken, word[0].split("/"))), escaped(text)))


def _broken(name: str) -> str:
    return re.sub(r"[_+](?=\w)|\w{24}", r"\g<0><wbr>", name) if len(name) >= LONG else name


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` stands for class, `aria_label` for aria-label; None attributes are left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escaped(value)}"')
    start = f"<{' '.join(words)}>"
    return Html(start) if name in _VOID else Html(start + "".join(map(escaped, children)) + f"</{name}>")


def join(parts: Iterable[Any], separator: str = "") -> Html:
    """Concatenates parts."""
    return Html(separator.join(map(escaped, parts)))


def table(
    caption: Any,
    columns: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    text: Sequence[int] = (0,),
    ours: int | None = None,
    class_: str = "",
) -> Html:
    """A table with a caption; each row's first cell is its heading. Wide tables scroll within themselves.

    Args:
        caption: what the table shows.
        columns: headings; "" leaves one out.
        rows: cells; a `td` element is used unchanged.
        text: positions of the columns that hold words rather than numbers.
        ours: index of the row to highlight.
        class_: CSS class.
    """
    head = [
        tag("th", name, scope="col", class_="text" if at in text else None) if name else tag("td")
        for at, name in enumerate(columns)
    ]
    body: list[Html] = []
    for number, row in enumerate(rows):
        cells = []
        for at, cell in enumerate(row):
            kind = "text" if at in text else None
            if isinstance(cell, Html) and cell.startswith("<td"):
                cells.append(cell)
                continue
            if kind and isinstance(cell, str) and not isinstance(cell, Html):
                cell = breakable(cell)
            cells.append(tag("th", cell, scope="row", class_=kind) if at == 0 else tag("td", cell, class_=kind))
        body.append(tag("tr", *cells, class_="ours" if number == ours else None))
    made = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
        class_=class_ or None,
    )
    # tabindex lets the keyboard reach and scroll it.
    return tag("div", made, class_="scroll", role="region", tabindex="0", aria_label=_plain(caption))


def _plain(caption: Any) -> str:
    return "table" if isinstance(caption, Html) else str(caption)


def bar(share: float) -> Html:
    """A cell with a bar from 0 to 1. Screen readers skip it: another cell has the number."""
    width = 0.0 if share != share else 100 * min(max(share, 0.0), 1.0)
    return tag("td", tag("span", class_="bar", style=f"width: {width:.1f}%"), class_="bars", aria_hidden="true")


def figure(content: Html, caption: Any, class_: str | None = None) -> Html:
    """A plot or picture with a caption."""
    return tag("figure", content, tag("figcaption", caption), class_=class_)


def section(name: str, heading: str, *parts: Any) -> Part:
    """A section of a page: (anchor, heading, element)."""
    return name, heading, tag("section", tag("h2", heading, id=name), *parts, aria_labelledby=name)


def commands(lines: Sequence[str]) -> Html:
    """Command lines, ready to copy. A narrow screen breaks them between words, not within a flag."""
    return tag("pre", tag("code", join((tag("span", _with_whole_flags(printable(line))) for line in lines), "\n")))


def _with_whole_flags(line: str) -> Html:
    return Html(_FLAG.sub(lambda flag: tag("span", flag[0], class_="flag"), escaped(line)))


def is_page(path: Path) -> bool:
    """Whether a file is a page of vggfeat's, of any version."""
    with path.open("rb") as stream:
        return b'<meta name="generator" content="vggfeat ' in stream.read(4096)


def check_page(folder: str | Path | None) -> None:
    """Raises VggfeatError where a page cannot be written into the folder, or would replace what is not ours.

    That is a page of another program, or a picture that has a plot's name.
    """
    if not folder:
        return
    check_replaceable(Path(folder, PAGE), is_page, "a page of vggfeat's")
    if is_file(Path(folder, PAGE)):  # whose plots they are
        return
    for plot in PLOTS:
        for path in (Path(folder, f"{plot}.svg"), Path(folder, f"{plot}.png")):
            check_replaceable(path, lambda _: False, "a plot of a page of vggfeat's")


def document(title: str, lead: Iterable[Any], sections: Sequence[Part]) -> str:
    """The whole page. It neither loads nor runs anything; its content policy forbids both."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"vggfeat {__version__}"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    links = tag("ul", *(tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections))
    body = tag(
        "body",
        tag("a", "To the results", href="#results", class_="skip"),
        tag("header", tag("h1", Html(escaped(title).replace(" %", "&nbsp;%"))), *lead),
        tag("nav", links, aria_label="Contents"),
        tag("main", *(part for _, _, part in sections), id="results"),
        tag("footer", tag("p", f"Made by vggfeat {__version__}.")),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def error_rate(error: float | None) -> str:
    """38.04 -> 38.0: an error, which is in percent already; a dash for a missing one."""
    return NONE if error is None else f"{error:.1f}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.9181 -> 91.8; a dash for a missing value."""
    return NONE if value is None or value != value else f"{100 * value:.{digits}f}"
