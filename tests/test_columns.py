"""Tables on narrow terminals: the kind is a number that is cut or broken, which then reads as another number."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from vggfeat.cli.columns import columns, show

ROWS = {
    "scores": ((">split", ">train", ">mean class recall %"), [("1", "1281167", "100.0")]),
    "a long name": (("class", ">recall %"), [("n01440764_tench_and_other_fish", "100.0"), ("b", "-")]),
    "markup in a name": (("class", ">images"), [("[bold]", "1234567890")]),
    "small numbers": (("svm", ">ratio", ">largest gap"), [("caltech101", "17.8", "9.9e-06")]),
    "many columns": ((">a", *(f">column {k}" for k in range(12))), [tuple(f"{k}234.5" for k in range(13))]),
    "signs": (("features", ">deviation"), [("deep", "+1.23456"), ("raw", "-0.5")]),
}


def text(name: str, width: int) -> list[str]:
    heads, rows = ROWS[name]
    table, file = columns(*heads), io.StringIO()
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    show(Console(file=file, width=width), table)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [1, 12, 20, 40, 60, 80, 200])
@pytest.mark.parametrize("name", ROWS)
def test_every_number_is_whole_at_any_width(name, width):
    heads, rows = ROWS[name]
    words = [word for line in text(name, width) for word in line.split()]
    for row in rows:
        for head, cell in zip(heads, row, strict=True):
            assert not head.startswith(">") or cell in words
    assert not any("…" in word or "..." in word for word in words)


@pytest.mark.parametrize("name", ROWS)
def test_names_lose_no_character_when_they_fold(name):
    heads, rows = ROWS[name]
    whole = "".join("".join(text(name, 20)).split())
    for row in rows:
        if not heads[0].startswith(">"):
            assert all(character in whole for character in row[0])


def test_a_table_that_fits_stays_as_narrow_as_it_is():
    assert max(map(len, text("a long name", 80))) == len("n01440764_tench_and_other_fish  recall %")
