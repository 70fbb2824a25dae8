import json
import os
import subprocess
import sys

import pytest

from vggfeat.catalog import NETS
from vggfeat.cli import VERBS, run, vggfeat
from vggfeat.cli.options import debugging


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_describes_its_options(verb, capsys):
    assert run([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"vggfeat {verb}" in text
    command = vggfeat.get_command(None, verb)
    assert {"--json", "--quiet", "--debug"} <= {flag for p in command.params for flag in p.opts}
    assert command.help.startswith(VERBS[verb].rstrip("."))


def test_an_unknown_verb_suggests_the_nearest(capsys):
    assert run(["extrct"]) == 2
    assert capsys.readouterr().err.startswith("vggfeat: no command 'extrct'; did you mean 'extract'? valid: nets, ")


def test_an_unknown_option_is_one_line(capsys):
    assert run(["nets", "--jsn"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--json" in captured.err


def test_nets_lists_table_1_and_the_weights(capsys):
    assert run(["nets"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in NETS)
    assert run(["nets", "--json"]) == 0
    rows = {row["net"]: row for row in json.loads(capsys.readouterr().out)["nets"]}
    assert rows["D"]["parameters"] == 138_357_544
    assert rows["D"]["weight_layers"] == 16
    assert rows["E"]["layers"].count("conv3-512") == 8
    assert [w["source"] for w in rows["D"]["weights"]] == ["oxford", "oxford-keras", "torchvision"]
    assert rows["C"]["weights"] == []


def test_a_closed_stdout_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "vggfeat", "nets"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 0
    assert done.stderr == b""


def test_debug_shows_the_traceback(tmp_path):
    args = [sys.executable, "-m", "vggfeat", "info", str(tmp_path / "none")]
    plain = subprocess.run(args, capture_output=True, text=True)
    assert (plain.returncode, plain.stderr) == (1, f"vggfeat: {tmp_path / 'none'}: no such file\n")
    debug = subprocess.run([*args, "--debug"], capture_output=True, text=True)
    assert "Traceback" in debug.stderr
    assert not debugging()


def test_control_characters_in_names_do_not_reach_the_terminal(capsys):
    assert run(["extract", "bad\x1b[31m\nname.jpg"]) == 2
    assert capsys.readouterr().err == "vggfeat: bad\\x1b[31m name.jpg: no such file or folder\n"


def test_info_says_how_a_descriptor_file_was_made_and_how_to_make_it_again(photos, tmp_path, capsys):
    out = tmp_path / "a.h5"
    made = ["--net", "A", "--weights", "none", "--width", "0.0625", "--scales", "224", "--no-flip", "--keep-scales"]
    assert run(["extract", str(photos), *made, "-o", str(out)]) == 0
    capsys.readouterr()
    assert run(["info", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["kind"], result["rows"], result["done"], result["pending"], result["dim"]) == (
        "descriptors",
        6,
        6,
        0,
        256,
    )
    again = result["command"].split()[1:]
    assert again[-1] == "-"
    assert run([*again[:-1], str(photos), "-o", str(tmp_path / "b.h5")]) == 0
    assert (tmp_path / "b.h5").read_bytes() == out.read_bytes()
    assert run(["info", str(out)]) == 0


def test_info_knows_a_checkpoint_and_refuses_other_files(tmp_path, capsys):
    from vggfeat.networks import VGG, glorot_

    glorot_(VGG("B", width=1 / 16, num_classes=3)).save(tmp_path / "b.pt")
    assert run(["info", str(tmp_path / "b.pt"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {k: result[k] for k in ("kind", "net", "width", "num_classes")} == {
        "kind": "checkpoint", "net": "B", "width": 1 / 16, "num_classes": 3
    }  # fmt: skip
    (tmp_path / "text").write_text("hello")
    assert run(["info", str(tmp_path / "text")]) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: {tmp_path / 'text'} is no descriptor file, checkpoint or model of vggfeat's\n"
    )


def test_unlike_the_benchmarks_training_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--net", "E"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "data/ilsvrc2012" in captured.err


def test_svm_without_descriptors_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["svm", "--dataset", "caltech256"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "vggfeat extract --dataset caltech256" in captured.err
