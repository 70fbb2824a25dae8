"""After a command stands the next one, which the command line takes as it is printed."""

import re
import shlex
import shutil

import click
import pytest
from making import clusters, write_descriptors
from PIL import Image

from vggfeat.cli import run, vggfeat
from vggfeat.cli.hints import NEXT, hint
from vggfeat.nets.catalog import RANDOM
from vggfeat.nets.networks import VGG, glorot_

NET = ["--net", "A", "--weights", "none", "--width", "0.015625", "--scales", "224", "--precision", "fp32"]
FACTS = {
    "net": "D",
    "scales": "256,384",
    "path": "my file.h5",
    "dataset": "caltech101",
    "files": ["a b.h5", "c.h5"],
    "shards": "a b.shard-*-of-2.h5",
}
FACTS |= {"data": ["--data", "my data"], "typed": ["-k", "3", "my file.h5", "a picture.jpg"]}


@pytest.mark.parametrize("done", NEXT)
def test_every_hint_parses(done, capsys):
    facts = FACTS | (
        {"typed": ["--weights", "my net.pt", "--scales", "224,256"]} if re.match("evaluate|localise", done) else {}
    )
    hint(done, False, **{name: facts[name] for name in re.findall(r"\{(\w+)\}", NEXT[done])})
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
    assert run(["extract", "a.jpg", *NET, "-o", "a.h5"]) == 3
    assert capsys.readouterr().err.endswith("1 of 1 image skipped\nnext: vggfeat info --failed a.h5\n")


@pytest.mark.parametrize(("sizes", "following"), [([1], "export"), ([4, 2], "export"), ([3, 3], "svm")])
def test_a_fit_is_suggested_only_of_classes_that_it_could_score(tmp_path, monkeypatch, capsys, sizes, following):
    monkeypatch.chdir(tmp_path)
    for name, size in zip("ab", sizes, strict=False):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(size):
            Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    layer = [*NET, "--layer", "pool5", "--scales", "32"]
    assert run(["extract", "--dataset", "folder", "--data", "photos", *layer, "-o", "-z.h5"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"next: vggfeat {following} ./-z.h5 ")
    assert run(["svm", "./-z.h5", "--C", "1", "--num-splits", "1"]) == (0 if following == "svm" else 1)


def test_the_commands_of_files_that_begin_with_a_dash_name_no_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset, values = clusters([20, 25])
    write_descriptors(tmp_path / "-d.h5", dataset, values)
    assert run(["svm", "--C", "1", "--num-splits", "1", "-o", "-m.h5", "--", "-d.h5"]) == 0
    assert capsys.readouterr().err.endswith("next: vggfeat predict ./-m.h5 PICTURES\n")
    assert run(["info", "--", "-m.h5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip().startswith("vggfeat svm ./-d.h5 ")


@pytest.mark.parametrize(
    ("what", "following"),
    [("svm", "vggfeat svm FILE.h5 -o model.h5"), ("solvers", "vggfeat svm FILE.h5 -o model.h5")],
)
def test_after_a_measurement_of_fits_comes_a_fit(what, following, monkeypatch, capsys):
    monkeypatch.setattr(f"vggfeat.stages.bench.{what}.bench_{what}", lambda *args, **options: {})
    monkeypatch.setattr("vggfeat.cli.tables.print_bench", lambda result: None)
    assert run(["bench", what]) == 0
    assert capsys.readouterr().err.endswith(f"next: {following}\n")


def test_after_a_shard_come_the_others_then_merging(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["extract", str(photos), *NET, "-o", "a b.h5", "--shard"]
    said = {}
    for shard in ("1/3", "0/3", "2/3"):
        assert run([*command, shard]) == 0
        said[shard] = capsys.readouterr().err.splitlines()[-1]
    merging = "vggfeat merge 'a b.shard-'*-of-3.h5 -o 'a b.h5'"
    assert said == {
        "1/3": "next: vggfeat info --shards 'a b.h5'",
        "0/3": f"when all 3 shards are done: {merging}",
        "2/3": f"next: {merging}",
    }
    assert run([*command, "2/3", "--overwrite", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_after_an_evaluation_comes_its_page_then_a_file_of_posteriors(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for row, path in enumerate(sorted(photos.glob("*.jpg"))):
        target = tmp_path / "own" / "ab"[row % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    net = VGG("A", width=1 / 64, num_classes=2, class_names=("a", "b"), preprocessing=RANDOM)
    glorot_(net, seed=0)
    net.save("net.pt")
    own = ["--weights", "net.pt", "--view", "center", "--scales", "224,256", "--dataset", "folder", "--data", "own"]
    own += ["--subset", "all"]

    def next_after(*words):
        assert run(["evaluate", *words]) == 0
        return capsys.readouterr().err.splitlines()[-1]

    assert next_after(*own) == f"next: vggfeat evaluate --report report {' '.join(own)}"
    assert next_after(*own, "--report", "r") == f"next: vggfeat evaluate -o FILE.h5 {' '.join(own)} --report r"
    assert next_after(*own, "-o", "p.h5") == "next: vggfeat evaluate p.h5 OTHER.h5"
    assert next_after("p.h5") == "next: vggfeat evaluate --report report p.h5"
    assert next_after("p.h5", "--report", "q") == "next: vggfeat evaluate p.h5 OTHER.h5"
