"""What README and its pages show is what happens: every block is run, or parsed where it needs more than a test has."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import pytest

from vggfeat import __version__, extract, read_descriptors, train
from vggfeat.cli import run, tables, vggfeat
from vggfeat.datasets import NAMES
from vggfeat.nets.catalog import NETS, WEIGHTS

ROOT = Path(__file__).parents[1]
NAMED = ("extracting", "benchmarks", "cluster", "training", "command-line", "contributing")
PAGES = {"README": ROOT / "README.md", **{name: ROOT / "recipes" / f"{name}.md" for name in NAMED}}
TEXTS = {name: path.read_text() for name, path in PAGES.items()}

NARROW = ["--net", "A", "--weights", "none", "--width", "0.03125"]
"""In place of Oxford's weights, which the tests do not fetch."""

ONLY_PARSED = {
    "pip install . && vggfeat quickstart": ".ci/run runs it in a fresh environment",
    "pip install torch torchvision --index-url": "an installation of a gigabyte",
    "conda create -n features": "an environment of another tool",
    "pip install '.[dev]' && pytest": ".ci/run runs it in a fresh environment",
    "pip install -e '.[dev]'": "the linters' and tests' set-up; .ci/run has the same steps",
    "vggfeat download --dataset caltech101": "needs Caltech-101; tests/test_download.py, test_svm_stage.py have small ones",
    "torchrun --nproc-per-node 8": "eight processes; tests/test_scale_out.py runs ranks, shards and merge",
    "python recipes/ray_shards.py": "needs Ray; tests/test_ray_recipe.py runs it where Ray is installed",
    "vggfeat train --net E": "needs ILSVRC; tests/test_train_stage.py trains narrow nets",
    "vggfeat evaluate --net D": "needs ILSVRC; tests/test_evaluate.py evaluates narrow nets",
    "vggfeat train --recipe recipes/D-384-localise.toml": "needs ILSVRC; tests/test_localise.py has narrow nets",
}
"""First words of the shell blocks that no test here runs whole, and where their commands are run instead."""

RUN = {
    "find photos": "test_the_pipe_runs_in_a_shell",
    "vggfeat extract --dataset folder": "test_the_walk_through_runs",
    "vggfeat svm photos.h5 --report": "test_the_report_of_the_benchmarks_page_runs",
    "vggfeat extract stimuli": "test_the_activations_of_the_extraction_page_are_whole_maps",
    "#SBATCH --array=0-15": "test_the_array_job_of_the_cluster_page_runs_and_merges",
    "sbatch --dependency=afterok": "test_the_array_job_of_the_cluster_page_runs_and_merges",
    "vggfeat train --net D --init-from published": "test_training_on_own_photos_runs_as_the_training_page_says",
}


def blocks(language: str, page: str | None = None) -> list[str]:
    texts = TEXTS.values() if page is None else [TEXTS[page]]
    return [text for page in texts for text in re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.S | re.M)]


def block(language: str, start: str, page: str | None = None) -> str:
    found = {text for text in blocks(language, page) if text.startswith(start)}
    assert len(found) == 1, start
    return found.pop()


def test_every_block_is_known_here():
    languages = {name for text in TEXTS.values() for name in re.findall(r"^```(\w+)", text, flags=re.M)}
    assert languages == {"sh", "text", "python", "toml", "bibtex"}
    for text in blocks("sh"):
        known = [start for start in (*ONLY_PARSED, *RUN) if text.startswith(start)]
        assert len(known) == 1, text
    assert all(test in globals() for test in RUN.values())
    assert [len(blocks(language)) for language in ("python", "toml", "text")] == [3, 1, 2]


def test_readme_is_short_and_leads_to_every_page():
    assert len(TEXTS["README"].splitlines()) <= 150
    for name in NAMED:
        assert f"](recipes/{name}.md)" in TEXTS["README"]


PROMISED = re.compile(r"same (bytes|weights)|(byte for byte|bit for bit)")


def test_equal_bits_are_promised_of_processors_alone():
    """GPUs' fastest kernels add in any order, and are chosen anew in each run."""
    texts = {page: (ROOT / page).read_text() for page in ("README.md", "recipes/training.md", "recipes/cluster.md")}
    texts |= {f"vggfeat.{call.__name__}": call.__doc__ for call in (train, extract)}
    promises = [
        (name, sentence)
        for name, text in texts.items()
        for sentence in re.split(r"(?<=[.|])\s", " ".join(text.split()))
        if PROMISED.search(sentence)
    ]
    assert {name for name, _ in promises} == set(texts)
    assert [promise for promise in promises if not re.search("CPU|processors", promise[1])] == []


def test_readme_and_the_help_of_train_show_how_to_fine_tune(capsys):
    command = block("sh", "vggfeat train --net D --init-from published --trainable fc").splitlines()[0]
    assert f"`{command}`" in TEXTS["README"]
    assert run(["train", "--help"]) == 0
    assert command.removesuffix(" -o net.pt") in " ".join(capsys.readouterr().out.replace("\\\n", "").split())


def test_the_picture_of_a_report_is_small():
    assert "](recipes/report.png)" in TEXTS["README"]
    assert (ROOT / "recipes" / "report.png").stat().st_size < 150_000


def test_the_set_up_commands_stand_there():
    assert "pip install . && vggfeat quickstart\n" in blocks("sh", "README")
    assert "pip install '.[dev]' && pytest\n" in blocks("sh", "contributing")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q . && vggfeat quickstart" in ci
    assert "pip install -q '.[dev]'" in ci


def test_the_costs_are_the_catalogues():
    """One figure everywhere: megabytes of the published files."""
    sizes = {row.net: round(row.size / 1e6) for row in WEIGHTS if row.source == "oxford" and row.size}
    assert f"{sizes['D']} MB for net D (E: {sizes['E']} MB)" in TEXTS["README"]


def test_the_help_is_the_commands_own(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["--help"]) == 0
    assert capsys.readouterr().out.strip() == block("text", "Usage:").strip()


def test_the_quickstart_table_is_as_it_is_printed(capsys):
    _, *lines = block("text", "features").splitlines()
    rows = []
    for line in lines:
        name, mean, std = re.fullmatch(r"(.*?)\s+([\d.]+)%(?:\s+([\d.]+)%)?", line).groups()
        rows.append({"features": name, "mean": float(mean) / 100, "std": float(std) / 100 if std else None})
    tables.print_quickstart(rows, "5 new digits")
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()[:-1]]
    expected = [line.rstrip() for line in block("text", "features").splitlines()]
    more = len(printed[0]) - len(expected[0])
    assert more == 0 or (more == 1 and version("rich").startswith("13.")), "rich 13 leaves another blank there"
    end = expected[0].index("  deviation")
    assert [line[:end] + line[end + more :] for line in printed] == expected


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return sorted({line[line.index("vggfeat ") :].partition(" || ")[0] for line in lines if "vggfeat " in line})


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command, monkeypatch):
    """Each command line's options and arguments are taken by its verb."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[1:]
    verb = vggfeat.get_command(None, words[0])
    assert verb is not None
    with click.Context(vggfeat, info_name="vggfeat") as parent:
        verb.make_context(words[0], words[1:], parent=parent)


def inline_commands() -> list[str]:
    """Command lines inside of sentences: `` `vggfeat info FILE` ``."""
    return sorted({text for page in TEXTS.values() for text in re.findall(r"`vggfeat ([a-z]+)[^`]*`", page)})


def test_commands_inside_of_sentences_name_verbs():
    assert inline_commands()
    assert [verb for verb in inline_commands() if vggfeat.get_command(None, verb) is None] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_it_names_exist(page):
    text = TEXTS[page]
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (PAGES[page].parent / target).exists(), target
    for target in re.findall(r"`((?:recipes|vggfeat|tests)/[\w/-]+\.(?:toml|py))`", text):
        assert (ROOT / target).exists(), target
    for recipe in re.findall(r"recipes/[\w-]+\.toml", text):
        assert (ROOT / recipe).exists(), recipe


def headings(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return re.findall(r"^#+ (.+)$", prose, flags=re.M)


@pytest.mark.parametrize("page", PAGES)
def test_links_within_it_lead_to_headings(page):
    anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in headings(TEXTS[page])}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXTS[page])) <= anchors


def test_the_pages_name_every_net_data_set_and_source_of_weights():
    everything = "\n".join(TEXTS.values())
    for name in NAMES:
        assert f"`{name}`" in everything
    for source in {row.source for row in WEIGHTS}:
        assert f"`{source}`" in TEXTS["README"]
    for name in NETS:
        assert re.search(rf"\b{re.escape(name.replace('shallow-', 'shallow '))}\b", TEXTS["README"])


def test_the_citation_names_this_version():
    (text,) = blocks("bibtex")
    assert f"version = {{{__version__}}}" in text
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"^@\w+\{[\w-]+,$", text, flags=re.M)) == 2


@pytest.fixture
def labelled(photos, tmp_path, monkeypatch):
    """A working folder with `photos/<class>/*.jpg` and a picture in `new/`."""
    folder = tmp_path / "work"
    for i in range(24):
        target = folder / "photos" / ("cats" if i % 2 else "dogs") / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sorted(photos.glob("*.jpg"))[i % 2 * 3], target)
    (folder / "new").mkdir()
    shutil.copy(photos / "3.jpg", folder / "new" / "a.jpg")
    monkeypatch.chdir(folder)
    return folder


def execute(line: str) -> int:
    """A line of a block, run here: its patterns match as in a shell; `extract` takes a narrow net."""
    return execute_words(shlex.split(line)[1:])


def execute_words(words: list[str]) -> int:
    """The same of the words after `vggfeat`."""
    words = [match for word in words for match in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    if words[0] == "extract":
        if "--net" in words:
            at = words.index("--net")
            words = words[:at] + words[at + 2 :]
        words += NARROW
    return run(words)


def narrow(code: str, text: str) -> str:
    """A Python block with a narrow random net in place of net D with Oxford's weights."""
    assert text in code
    code = code.replace(text, text.replace('"D"', '"A", weights=None, width=0.03125'))
    ast.parse(code)
    return code


def test_the_python_block_runs_as_written(labelled, capsys):
    (code,) = blocks("python", "README")
    exec(narrow(code, 'net="D"'), {})
    scores, prediction, shape = capsys.readouterr().out.splitlines()
    mean, _ = map(float, scores.split())
    assert mean == 1.0
    assert prediction.startswith("new/a.jpg [('cats', ")
    assert shape == "(24, 128) cats/1.jpg"


def test_the_pipeline_of_the_extraction_page_runs_as_written(labelled, capsys):
    code = block("python", "from pathlib import Path", "extracting")
    exec(narrow(code, 'load_net("D")'), {})
    assert capsys.readouterr().out == "1.0\n"


def test_the_walk_through_runs(labelled, capsys):
    """README's lines as they stand, but for a narrow random net in place of Oxford's weights."""
    printed = {}
    for line in block("sh", "vggfeat extract --dataset folder").splitlines():
        capsys.readouterr()
        assert execute(line) == 0, line
        printed[shlex.split(line)[1]] = capsys.readouterr().out
    assert printed["svm"] == "model.h5\nreport/index.html\n"
    assert "<img" in Path("report/index.html").read_text(encoding="utf-8")
    id, name, *_ = printed["predict"].splitlines()[-1].split("\t")
    assert (id, name) == ("new/a.jpg", "cats")


def test_the_report_of_the_benchmarks_page_runs(labelled, capsys):
    assert execute("vggfeat extract --dataset folder --data photos --scales 256 -o photos.h5") == 0
    (line,) = block("sh", "vggfeat svm photos.h5 --report").splitlines()
    capsys.readouterr()
    assert execute(line) == 0
    assert capsys.readouterr().out == "report/index.html\n"


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


def test_the_recipe_file_runs(labelled, capsys):
    """The TOML block as it stands; flags, which win, give a narrow net and a folder in place of Caltech-101."""
    (text,) = blocks("toml")
    Path("experiment.toml").write_text(text)
    made = tomllib.loads(text)
    flags = ["--dataset", "folder", "--data", "photos"]
    assert run(["extract", "--recipe", "experiment.toml", *NARROW, *flags]) == 0
    assert capsys.readouterr().out == f"{made['extract']['output']}\n"
    assert list(read_descriptors(made["extract"]["output"]).attributes["scales"]) == made["extract"]["scales"]
    assert run(["svm", "--recipe", "experiment.toml"]) == 0
    assert Path(made["svm"]["report"], "index.html").exists()


SHELL = """
vggfeat() { printf '%s\\0' "$@" $'\\n'; return "${CODE:-0}"; }
sbatch() { [ "$2" = --wrap ] && eval "$3"; }
"""
"""Prints the words of each command as bash expands them, and ends with CODE; a job runs at once."""


def typed(script: str, **variables: str) -> tuple[list[str], int]:
    """The words of a block's only vggfeat command, and the exit code of the block."""
    done = subprocess.run(["bash", "-c", SHELL + script], env=os.environ | variables, capture_output=True, text=True)
    *words, end = done.stdout.split("\0")[:-1]
    assert end == "\n"
    return words, done.returncode


def test_the_array_job_of_the_cluster_page_runs_and_merges(labelled, capsys):
    """Its lines as bash expands them, for 2 shards in place of 16; one picture of the list is missing."""
    photos = [str(path) for path in sorted(Path("photos").rglob("*.jpg"))]
    Path("list.txt").write_text("\n".join([*photos, "photos/gone.jpg"]))
    task = block("sh", "#SBATCH --array=0-15").replace("/16", "/2")
    merging = block("sh", "sbatch --dependency=afterok").replace("-of-16", "-of-2")
    codes = []
    for index in range(2):
        words, _ = typed(task, SLURM_ARRAY_TASK_ID=str(index))
        codes.append(execute_words([*words, "--scales", "224"]))
    assert codes == [0, 3], "the last image of the list belongs to the last shard"
    words, _ = typed(merging, ARRAY="7")
    assert words[:3] == ["merge", "feats.shard-0-of-2.h5", "feats.shard-1-of-2.h5"], "bash found the shards"
    assert run(words) == 3
    assert list(read_descriptors("feats.h5").ids) == [*photos, "photos/gone.jpg"]
    for script in (task, merging):  # only 3, some images skipped, counts as done
        assert [typed(script, ARRAY="7", CODE=str(code))[1] for code in (0, 1, 3)] == [0, 1, 0]
    assert run(["info", "feats.h5", "--failed"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("photos/gone.jpg\t")


def test_the_activations_of_the_extraction_page_are_whole_maps(photos, tmp_path, monkeypatch, capsys):
    """The whole maps, under the layers' names, for a narrow net D."""
    photos.rename(tmp_path / "stimuli")
    monkeypatch.chdir(tmp_path)
    for line in block("sh", "vggfeat extract stimuli").splitlines():
        narrow_line = line.replace("--net D", "--net D --weights none --width 0.03125")
        assert run(shlex.split(narrow_line)[1:]) == 0, line
    exec(block("python", "import numpy as np", "extracting"), space := {})
    assert space["rdm"].shape == (6, 6)
    held, exported = read_descriptors("activations.h5"), np.load("conv5_3.npy")
    assert exported.shape == (6, 16 * 14 * 14), "512 channels, times the width"
    assert np.array_equal(exported, held.choose("conv5_3").read())
    assert not np.isclose(np.linalg.norm(exported, axis=1), 1).any(), "raw values, not of unit length"
    assert np.allclose(space["rdm"], 1 - np.corrcoef(exported), atol=1e-6)
    assert [layer.name for layer in held.layers] == ["conv5_2", "conv5_3", "fc7"]


def test_training_on_own_photos_runs_as_the_training_page_says(labelled, capsys):
    """Fine-tuning, then a narrow net from random weights; one epoch each, and a narrow net to start from."""
    from vggfeat.nets.networks import VGG, glorot_

    glorot_(VGG("A", width=1 / 32)).save("source.pt")
    Path("new").rename("new-pictures")
    tuning, predicting = block("sh", "vggfeat train --net D --init-from published").splitlines()
    assert "--net D --init-from published" in tuning
    tuning = tuning.replace("--net D --init-from published", "--net A --width 0.03125 --init-from source.pt")
    *_, training = block("sh", "vggfeat train --net E").splitlines()
    assert all(words in training for words in ("--width 0.125", "--epochs 20", "-o net.pt"))
    training = training.replace("--width 0.125", "--width 0.03125").replace("--epochs 20", "--epochs 1 --overwrite")
    for line in (f"{tuning} --epochs 1", training):
        capsys.readouterr()
        assert execute(line) == 0, line
        out, err = capsys.readouterr()
        assert out == "net.pt\n"
        assert "next: vggfeat predict net.pt PICTURES" in err
        assert "top-5" not in err, "two classes have none"
        assert execute(predicting) == 0
        ((id, name, score),) = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert (id, name in ("cats", "dogs"), 0.5 <= float(score) <= 1) == ("new-pictures/a.jpg", True, True)
