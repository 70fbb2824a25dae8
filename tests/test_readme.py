"""What the README shows is what happens."""

import ast
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from vggfeat.cli import run, vggfeat

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.S | re.M)


def test_the_set_up_commands_stand_there():
    assert "pip install . && vggfeat quickstart\n" in blocks("sh")
    assert "pip install '.[dev]' && pytest\n" in blocks("sh")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q . && vggfeat quickstart" in ci
    assert "pip install -q '.[dev]'" in ci


def test_the_help_is_the_commands_own(capsys):
    assert run(["--help"]) == 0
    assert capsys.readouterr().out.strip() in README


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line[line.index("vggfeat ") :] for line in lines if "vggfeat " in line]


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command):
    """Each command line's options and arguments are taken by its verb; the verbs' own tests run them."""
    words = shlex.split(command)[1:]
    verb = vggfeat.get_command(None, words[0])
    assert verb is not None
    with click.Context(vggfeat, info_name="vggfeat") as parent:
        verb.make_context(words[0], words[1:], parent=parent)


def test_files_that_it_names_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for recipe in re.findall(r"recipes/[\w-]+\.toml", README):
        assert (ROOT / recipe).exists(), recipe


def labelled_photos(photos: Path, folder: Path) -> None:
    for i in range(24):
        target = folder / "photos" / ("cats" if i % 2 else "dogs") / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sorted(photos.glob("*.jpg"))[i % 2 * 3], target)


def test_the_python_block_runs_as_written(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path / "photos")
    labelled_photos(photos, Path.cwd())
    (code,) = blocks("python")
    ast.parse(code)
    exec(code, {})
    score, gap = map(float, capsys.readouterr().out.split())
    assert score == 1.0
    assert gap <= 1e-5


def test_the_walk_through_works_with_a_narrow_net(photos, tmp_path, monkeypatch, capsys):
    """The README's four commands as they stand, but for a narrow random net in place of Oxford's weights."""
    monkeypatch.chdir(tmp_path / "photos")
    labelled_photos(photos, Path.cwd())
    new = Path("new")
    new.mkdir()
    shutil.copy(photos / "3.jpg", new / "a.jpg")
    block = next(block for block in blocks("sh") if "vggfeat predict" in block)
    narrow = ["--net", "A", "--weights", "none", "--width", "0.0625"]
    for line in block.replace("new/*.jpg", "new/a.jpg").splitlines():
        words = shlex.split(line)[1:]
        capsys.readouterr()
        assert run([*words, *narrow] if words[0] == "extract" else words) == 0, line
    id, name, _ = capsys.readouterr().out.strip().split("\t")
    assert (id, name) == ("new/a.jpg", "cats")
