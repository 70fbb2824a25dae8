"""The recipes that ship, for tests: their files, the commands in their headers, and how click takes these."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from vggfeat.cli import vggfeat

RECIPES = Path(__file__).parents[1] / "recipes"

TABLES = sorted(RECIPES.glob("table-*.toml"))
"""Those of the commands that are no training."""

TRAINING = sorted(set(RECIPES.glob("*.toml")) - set(TABLES))


def header(file: Path) -> list[str]:
    """The lines of comments above a recipe."""
    return [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]


def commands(file: Path) -> list[str]:
    """The command lines in a header."""
    return [line for line in header(file) if line.startswith("vggfeat ")]


def parsed(line: str) -> click.Context:
    """A command line as click takes it, run by nobody; globs match nothing here and stay as they are."""
    words = shlex.split(line)
    assert words.pop(0) == "vggfeat"
    verb = vggfeat.get_command(None, words[0])  # type: ignore[arg-type]
    assert verb is not None, line
    with click.Context(vggfeat, info_name="vggfeat") as parent:
        return verb.make_context(words[0], words[1:], parent=parent)
