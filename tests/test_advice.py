"""One core, two mouths: the library speaks of parameters, the command line of flags."""

import ast
import re
from pathlib import Path

import pytest

import vggfeat
from vggfeat.cli import VERBS
from vggfeat.cli import vggfeat as group
from vggfeat.cli.advice import ADVICE, in_flags, told
from vggfeat.errors import DatasetError, UsageError

ROOT = Path(vggfeat.__file__).parent
SHELL = {ROOT / "page" / "commands.py", ROOT / "page" / "style.py"}
"""The command lines that pages repeat, and CSS, whose variables begin with two dashes."""
BELOW = [path for path in sorted(ROOT.rglob("*.py")) if (ROOT / "cli") not in path.parents and path not in SHELL]
FLAG = re.compile(r"(?<![\w-])--[a-z]|(?<![\w-])-[o0]\b|\bvggfeat (" + "|".join(VERBS) + r")\b")


def docstrings(tree: ast.AST) -> set[int]:
    """The places of strings that are statements: documentation of modules, functions and constants."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def strings(path: Path) -> list[str]:
    """The texts of a file that can reach a user; of f-strings the fixed parts."""
    tree = ast.parse(path.read_text())
    documentation = docstrings(tree)
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(ROOT)))
def test_below_the_command_line_no_text_names_a_flag_or_a_command(path):
    assert [text for text in strings(path) if FLAG.search(text)] == []


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_parameter_that_a_message_names_is_an_option_of_a_command(path):
    options = {
        flag
        for verb in VERBS
        for param in group.get_command(None, verb).params
        for flag in (*param.opts, *param.secondary_opts)
    }
    named = {match for text in strings(path) for match in re.findall(r"`[^`\s]+`", text)}
    typed = {in_flags(name).split()[0] for name in named}
    assert typed - options == set()


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("`resume` and `overwrite`: choose one", "--resume and --overwrite: choose one"),
        ("take `precision=bf16` or `device=cpu`", "take --precision bf16 or --device cpu"),
        ("`flip=False`", "--no-flip"),
        ("`resume=True`", "--resume"),
        ("`init.stall_steps=0` waits", "--set init.stall_steps=0 waits"),
        ("`output` names another file", "-o names another file"),
        ("a`b c`d", "a`b c`d"),
    ],
)
def test_parameters_become_flags(message, typed):
    assert in_flags(message) == typed
    assert told(UsageError(message)) == typed


def test_advice_follows_the_message_with_its_facts_quoted():
    error = DatasetError("no my data at x", advice="download", dataset="my data")
    assert str(error) == "no my data at x"
    assert told(error) == "no my data at x: fetch it with 'vggfeat download --dataset 'my data''"


def test_every_advice_that_the_library_asks_for_exists():
    asked = {
        keyword.value.value
        for path in BELOW
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "advice" and isinstance(keyword.value, ast.Constant)
    }
    assert asked - {""} <= set(ADVICE)
