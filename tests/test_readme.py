"""What the README shows is what happens: every block of it is run, or read by what it is for."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from vggfeat import __version__, read_descriptors
from vggfeat.cli import run, tables, vggfeat
from vggfeat.datasets import NAMES
from vggfeat.nets.catalog import NETS, WEIGHTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

NARROW = ["--net", "A", "--weights", "none", "--width", "0.03125"]
"""In place of Oxford's weights, which the tests do not fetch."""

ONLY_PARSED = {
    "pip install . && vggfeat quickstart": ".ci/run runs it in a fresh environment",
    "pip install '.[dev]' && pytest": ".ci/run runs it in a fresh environment",
    "pip install -e '.[dev]'": "the linters' and tests' own set-up; .ci/run has the same steps",
    "vggfeat download --dataset caltech101": "needs Caltech-101; tests/test_download.py, test_svm_stage.py have small ones",
    "torchrun --nproc-per-node 8": "eight processes; tests/test_scale_out.py runs ranks, shards and merge",
    "#SBATCH --array=0-15": "needs SLURM; tests/test_scale_out.py runs shards and merge",
    "vggfeat train --net E": "needs ILSVRC; tests/test_train_stage.py trains narrow nets",
    "vggfeat evaluate --net D": "needs ILSVRC; tests/test_evaluate.py evaluates narrow nets",
    "vggfeat train --recipe recipes/D-384-localise.toml": "needs ILSVRC; tests/test_localise.py has narrow nets",
}
"""First words of the shell blocks that no test here can run whole, and where their commands are run instead."""

RUN = {
    "find photos": "test_the_pipe_runs_in_a_shell",
    "vggfeat extract --dataset folder": "test_the_walk_through_and_its_report_run",
    "vggfeat svm photos.h5 --report": "test_the_walk_through_and_its_report_run",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.S | re.M)


def block(language: str, start: str) -> str:
    (found,) = [text for text in blocks(language) if text.startswith(start)]
    return found


def test_every_block_is_known_here():
    assert set(re.findall(r"^```(\w+)", README, flags=re.M)) == {
        "sh",
        "text",
        "python",
        "toml",
        "bibtex",
    }
    for text in blocks("sh"):
        known = [start for start in (*ONLY_PARSED, *RUN) if text.startswith(start)]
        assert len(known) == 1, text
    assert all(test in globals() for test in RUN.values())
    assert [len(blocks(language)) for language in ("python", "toml", "text")] == [1, 1, 2]


def test_the_set_up_commands_stand_there():
    assert "pip install . && vggfeat quickstart\n" in blocks("sh")
    assert "pip install '.[dev]' && pytest\n" in blocks("sh")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q . && vggfeat quickstart" in ci
    assert "pip install -q '.[dev]'" in ci


def test_the_help_is_the_commands_own(capsys):
    assert run(["--help"]) == 0
    assert capsys.readouterr().out.strip() == block("text", "Usage:").strip()


def test_the_quickstart_table_is_as_it_is_printed(capsys):
    _, *lines = block("text", "features").splitlines()
    rows = []
    for line in lines:
        name, mean, std = re.fullmatch(r"(.*?)\s+([\d.]+)%\s+([\d.]+)%", line).groups()
        rows.append({"features": name, "mean": float(mean) / 100, "std": float(std) / 100})
    tables.print_quickstart(rows, 38.0)
    printed = capsys.readouterr().out.splitlines()[:-1]
    assert [line.rstrip() for line in printed] == [line.rstrip() for line in block("text", "features").splitlines()]


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line[line.index("vggfeat ") :] for line in lines if "vggfeat " in line]


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command, monkeypatch):
    """Each command line's options and arguments are taken by its verb."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[1:]
    verb = vggfeat.get_command(None, words[0])
    assert verb is not None
    with click.Context(vggfeat, info_name="vggfeat") as parent:
        verb.make_context(words[0], words[1:], parent=parent)


def test_files_that_it_names_exist():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:recipes|vggfeat|tests)/[\w/-]+\.(?:toml|py))`", README):
        assert (ROOT / target).exists(), target
    for recipe in re.findall(r"recipes/[\w-]+\.toml", README):
        assert (ROOT / recipe).exists(), recipe


def test_links_within_it_lead_to_headings():
    anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in headings()}
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= anchors


def headings() -> list[str]:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.S | re.M)
    return re.findall(r"^#+ (.+)$", prose, flags=re.M)


def test_its_tables_name_every_data_set_and_every_source_of_weights():
    for name in NAMES:
        assert f"`{name}`" in README
    for source in {row.source for row in WEIGHTS}:
        assert f"`{source}`" in README
    for name in NETS:
        assert re.search(rf"\b{re.escape(name.replace('shallow-', 'shallow '))}\b", README)


def test_the_citation_names_this_version():
    (text,) = blocks("bibtex")
    assert f"version = {{{__version__}}}" in text
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"^@\w+\{[\w-]+,$", text, flags=re.M)) == 2


def labelled_photos(photos: Path, folder: Path) -> None:
    for i in range(24):
        target = folder / "photos" / ("cats" if i % 2 else "dogs") / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sorted(photos.glob("*.jpg"))[i % 2 * 3], target)


def execute(line: str) -> int:
    """A line of a block, run here: its patterns match as in a shell; `extract` takes a narrow net."""
    words = shlex.split(line)[1:]
    words = [match for word in words for match in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    if words[0] == "extract":
        if "--net" in words:
            at = words.index("--net")
            words = words[:at] + words[at + 2 :]
        words += NARROW
    return run(words)


def test_the_python_block_runs_as_written(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path / "photos")
    labelled_photos(photos, Path.cwd())
    (code,) = blocks("python")
    ast.parse(code)
    exec(code, {})
    score, gap = map(float, capsys.readouterr().out.split())
    assert score == 1.0
    assert gap <= 1e-5


def test_the_walk_through_and_its_report_run(photos, tmp_path, monkeypatch, capsys):
    """The README's lines as they stand, but for a narrow random net in place of Oxford's weights."""
    monkeypatch.chdir(tmp_path / "photos")
    labelled_photos(photos, Path.cwd())
    new = Path("new")
    new.mkdir()
    shutil.copy(photos / "3.jpg", new / "a.jpg")
    for line in block("sh", "vggfeat extract --dataset folder").splitlines():
        capsys.readouterr()
        assert execute(line) == 0, line
    id, name, _ = capsys.readouterr().out.strip().split("\t")
    assert (id, name) == ("new/a.jpg", "cats")
    (line,) = block("sh", "vggfeat svm photos.h5 --report").splitlines()
    assert execute(line) == 0
    assert capsys.readouterr().out == "report/index.html\n"
    assert "<img" in Path("report/index.html").read_text(encoding="utf-8")


def test_the_pipe_runs_in_a_shell(photos, tmp_path):
    """In bash, with its pipe and its default output."""
    shim = tmp_path / "bin" / "vggfeat"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vggfeat "$@"\n')
    shim.chmod(0o755)
    script = block("sh", "find photos").replace("--net D", shlex.join(NARROW))
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).stat().st_size > 6 * 4 * 3 * 128


def test_the_recipe_file_runs(photos, tmp_path, monkeypatch, capsys):
    """The TOML block as it stands; flags, which win, give a narrow net and a folder in place of Caltech-101."""
    monkeypatch.chdir(tmp_path / "photos")
    labelled_photos(photos, Path.cwd())
    (text,) = blocks("toml")
    Path("experiment.toml").write_text(text)
    made = tomllib.loads(text)
    flags = ["--dataset", "folder", "--data", "photos"]
    assert run(["extract", "--recipe", "experiment.toml", *NARROW, *flags]) == 0
    assert capsys.readouterr().out == f"{made['extract']['output']}\n"
    assert list(read_descriptors(made["extract"]["output"]).attributes["scales"]) == made["extract"]["scales"]
    assert run(["svm", "--recipe", "experiment.toml"]) == 0
    assert Path(made["svm"]["report"], "index.html").exists()
