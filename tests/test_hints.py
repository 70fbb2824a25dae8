"""After a command stands the next one, which the command line takes as it is printed."""

import re
import shlex

import click
import pytest
from making import clusters, write_descriptors

from vggfeat.cli import run, vggfeat
from vggfeat.cli.hints import NEXT, hint

FACTS = {"net": "D", "scales": "256,384", "path": "my file.h5", "dataset": "caltech101", "files": ["a b.h5", "c.h5"]}
FACTS |= {"data": ["--data", "my data"], "typed": ["-k", "3", "my file.h5", "a picture.jpg"]}


@pytest.mark.parametrize("done", NEXT)
def test_every_hint_parses(done, capsys):
    hint(done, False, **{name: FACTS[name] for name in re.findall(r"\{(\w+)\}", NEXT[done])})
    line = capsys.readouterr().err.replace("\n", " ")
    words = shlex.split(line.removeprefix("next: vggfeat "))
    verb = vggfeat.get_command(None, words[0])
    with click.Context(vggfeat, info_name="vggfeat") as parent:
        verb.make_context(words[0], words[1:], parent=parent)


def test_a_hint_quotes_names_and_keeps_quiet_on_request(capsys):
    hint("svm", False, files=["a b.h5", "c.h5"])
    hint("nets", True)
    assert capsys.readouterr().err == "next: vggfeat svm 'a b.h5' c.h5 -o model.h5\n"


def test_commands_end_with_the_next_one_unless_a_program_reads_their_result(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset, values = clusters([20, 25, 30])
    write_descriptors(tmp_path / "d.h5", dataset, values)
    fit = ["svm", "d.h5", "--C", "1", "--num-splits", "1"]
    assert run(fit) == 0
    assert capsys.readouterr().err.endswith("next: vggfeat svm d.h5 -o model.h5\n")
    assert run([*fit, "-o", "model.h5"]) == 0
    assert capsys.readouterr().err.endswith("next: vggfeat predict model.h5 PICTURES\n")
    for silent in ("--json", "--quiet"):
        assert run([*fit, silent]) == 0
        assert "next:" not in capsys.readouterr().err


def test_after_an_extraction_without_any_descriptor_come_the_reasons(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_text("no picture")
    net = ["--net", "A", "--weights", "none", "--width", "0.015625", "--scales", "224", "--precision", "fp32"]
    assert run(["extract", "a.jpg", *net, "-o", "a.h5"]) == 3
    assert capsys.readouterr().err.endswith("1 of 1 image skipped\nnext: vggfeat info --failed a.h5\n")


@pytest.mark.parametrize(
    ("what", "following"),
    [("svm", "vggfeat svm FILE.h5 -o model.h5"), ("solvers", "vggfeat svm FILE.h5 -o model.h5")],
)
def test_after_a_measurement_of_fits_comes_a_fit(what, following, monkeypatch, capsys):
    monkeypatch.setattr(f"vggfeat.stages.bench.{what}.bench_{what}", lambda *args, **options: {})
    monkeypatch.setattr("vggfeat.cli.tables.print_bench", lambda result: None)
    assert run(["bench", what]) == 0
    assert capsys.readouterr().err.endswith(f"next: {following}\n")
