import ast
import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import click
import pytest
from making import settings
from rich.console import Console

from vggfeat import cli
from vggfeat.cli import VERBS, progress, run, vggfeat
from vggfeat.cli.options import debugging
from vggfeat.nets.catalog import NETS
from vggfeat.nets.preprocessing import OXFORD, RANDOM, TORCHVISION
from vggfeat.page.commands import extract_command
from vggfeat.store.naming import Naming


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_describes_its_options(verb, capsys):
    assert run([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"vggfeat {verb}" in text
    command = vggfeat.get_command(None, verb)
    assert {"--recipe", "--json", "--quiet", "--debug"} <= {flag for p in command.params for flag in p.opts}
    assert command.help.startswith(VERBS[verb].rstrip("."))


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_fits_80_columns(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([verb, "--help"] if verb else ["--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


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
    assert again[-3:] == ["-o", str(out), str(photos)]
    made, _ = out.read_bytes(), out.unlink()
    assert run(again) == 0
    assert out.read_bytes() == made
    assert run(["info", str(out)]) == 0


def test_random_weights_are_recorded_with_their_seed(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    narrow = ["--net", "A", "--net", "B", "--weights", "none", "--width", "0.015625", "--scales", "224", "--no-exif"]
    for name, seed in (("a.h5", "7"), ("b.h5", "0")):
        assert run(["extract", str(photos), *narrow, "--seed", seed, "-o", name, "--quiet"]) == 0
    capsys.readouterr()
    assert run(["info", "a.h5", "--json"]) == 0
    words = shlex.split(json.loads(capsys.readouterr().out)["command"])
    assert words[words.index("--seed") + 1] == "7"
    assert run([*words[1:], "-o", "again.h5", "--quiet"]) == 0
    assert Path("again.h5").read_bytes() == Path("a.h5").read_bytes() != Path("b.h5").read_bytes()


def test_predict_draws_random_weights_with_the_recorded_seed(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        Path("own", "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / f"{i % 2 * 3}.jpg", Path("own", "ab"[i % 2], f"{i}.jpg"))
    narrow = ["--net", "A", "--weights", "none", "--width", "0.015625", "--scales", "224", "--seed", "7"]
    assert run(["extract", "--dataset", "folder", "--data", "own", *narrow, "-o", "own.h5", "--quiet"]) == 0
    assert run(["svm", "own.h5", "--C", "1", "--num-splits", "1", "-o", "m.h5", "--quiet"]) == 0
    assert run(["predict", "m.h5", "own/b/1.jpg", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split("\t")[:2] == ["own/b/1.jpg", "b"]
    assert run(["predict", "m.h5", "own/b/1.jpg", "--seed", "0", "--quiet"]) == 1
    assert capsys.readouterr().err.endswith("give the --seed of the extraction\n")


@pytest.mark.parametrize("seed", ["7", 7.0, True, 2**64])
def test_a_strangers_seed_is_checked(seed):
    from making import settings

    from vggfeat.store.provenance import check_provenance

    recorded = json.loads(json.dumps(settings("D")))
    recorded["nets"][0]["seed"] = 7
    check_provenance(recorded)
    recorded["nets"][0]["seed"] = seed
    with pytest.raises(ValueError, match=re.escape(f"nets has {seed!r} as seed")):
        check_provenance(recorded)


def test_info_knows_a_checkpoint_and_refuses_other_files(tmp_path, capsys):
    from vggfeat.nets.networks import VGG, glorot_

    glorot_(VGG("B", width=1 / 16, num_classes=3)).save(tmp_path / "b.pt")
    assert run(["info", str(tmp_path / "b.pt"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {k: result[k] for k in ("kind", "net", "width", "num_classes")} == {
        "kind": "checkpoint",
        "net": "B",
        "width": 1 / 16,
        "num_classes": 3,
    }
    (tmp_path / "text").write_text("hello")
    assert run(["info", str(tmp_path / "text")]) == 1
    assert capsys.readouterr().err == (
        f"vggfeat: {tmp_path / 'text'} is not a descriptor file, checkpoint, model or weights file\n"
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


# Manners.


def completions(words: str, position: int) -> list[str]:
    environment = {**os.environ, "_VGGFEAT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    done = subprocess.run([sys.executable, "-m", "vggfeat"], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_the_shell_completes_commands_nets_and_data_sets():
    assert completions("vggfeat ex", 1) == ["extract", "export"]
    assert completions("vggfeat extract --net a", 3) == ["A", "A-LRN"]
    assert completions("vggfeat svm --dataset voc2012", 3) == ["voc2012", "voc2012-action"]
    for words, position in (("extract pho", 2), ("svm -o mod", 3), ("evaluate --weights be", 3), ("info f", 2)):
        assert completions(f"vggfeat {words}", position) == [words.split()[-1]], "the shell completes names of files"
    assert completions("vggfeat nosuch ", 2), "an unknown verb is no error while typing"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_there(shell):
    environment = {**os.environ, "_VGGFEAT_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-m", "vggfeat"], env=environment, capture_output=True, text=True)
    assert "_vggfeat_completion" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["extract", "x.jpg", "--scale", "256"],
            "vggfeat: No such option '--scale'; did you mean '--scales'? (see 'vggfeat extract --help')\n",
        ),
        (
            ["extract", "x.jpg", "-net", "D"],
            "No such option '-n'; did you mean '--net'? (see 'vggfeat extract --help')\n",
        ),
        (["svm", "-x"], "No such option '-x' (see 'vggfeat svm --help')\n"),
        (["extract", "x.jpg", "--layer", "fc17"], "'pool5', 'fc6', 'fc7'; did you mean 'fc7'? (see "),
        (["svm", "--dataset", "caltech-101"], "'folder'; did you mean 'caltech101'? (see 'vggfeat svm --help')\n"),
        (
            ["download", "--dataset", "voc07"],
            "'caltech101', 'caltech256', 'voc2007', 'voc2012'; did you mean 'voc2007'?",
        ),
        (["download", "--net", "shallowB"], "no net 'shallowB'; did you mean 'shallow-B'? valid: A (VGG-11), "),
        (
            ["bench", "extrat"],
            "'extrat' is not one of 'all', 'extract', 'train', 'svm', 'convolutions', 'solvers'; did you mean 'extract'?",
        ),
        (["evaluate", "--scales", "mult"], "'mult' is not a rule for scales; did you mean 'multi'?"),
        (["train", "--init", "gausian"], "did you mean 'gaussian'?"),
        (["train", "--set", "sgd.batchsize=2"], "no recipe key 'sgd.batchsize'; did you mean 'sgd.batch_size'?"),
        (["extract", "--layer", "zzz"], "'pool5', 'fc6', 'fc7' (see 'vggfeat extract --help')\n"),
    ],
)
def test_a_name_that_is_not_valid_suggests_the_nearest(args, message, capsys):
    assert run(args) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_an_unknown_net_suggests_the_nearest(photos, capsys):
    assert run(["extract", str(photos), "--net", "shallowB"]) == 2
    assert capsys.readouterr().err.startswith(
        "vggfeat: no net 'shallowB'; did you mean 'shallow-B'? valid: A (VGG-11), A-LRN, "
    )


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("extract x.jpg --net net.pt", "vggfeat: no net 'net.pt'; a file is given as --weights 'net.pt'\n"),
        ("download --net net.pt", "vggfeat: no net 'net.pt'; valid: A (VGG-11), "),
    ],
)
def test_a_file_in_a_nets_place_is_sent_to_weights_where_the_command_has_them(command, text, capsys):
    assert run(command.split()) == 2
    assert capsys.readouterr().err.startswith(text)


def test_a_terminal_shows_one_bar_at_a_time_and_none_that_has_nothing_to_say(monkeypatch):
    """rich before 14.1 refuses two at once; the bar of a fetch that never came would stand empty all the time."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "stderr", lambda: console)
    with progress.Ticker("fetch", unit="MB") as fetched, progress.Ticker("extract") as tick:
        tick(0, 10, 0)
        assert "fetch" not in stream.getvalue()
        fetched(1, 5)  # a second net's weights
        assert "fetch" in stream.getvalue()
        assert len(console._live_stack) == 1 if hasattr(console, "_live_stack") else console._live is not None
        fetched(5, 5)
        tick(4, 10, 1)
        tick(10, 10, 1)
        assert "4/10 images" in stream.getvalue()
        assert "1 skipped" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")  # and it leaves nothing behind


def test_verbose_says_what_is_loaded_and_quiet_says_nothing(photos, tmp_path, capsys):
    narrow = ["--net", "A", "--weights", "none", "--width", "0.0625", "--scales", "224", "--device", "cpu"]
    assert run(["extract", str(photos), *narrow, "-o", str(tmp_path / "a.h5"), "--verbose"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("vggfeat 0.")
    assert "net A, width 1/16, random weights, cpu, " in err
    assert run(["extract", str(photos), *narrow, "-o", str(tmp_path / "b.h5")]) == 0
    assert "net A" not in capsys.readouterr().err, "the last call's wish is over"
    assert run(["extract", str(photos), *narrow, "-o", str(tmp_path / "c.h5"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert logging.getLogger("vggfeat").level == logging.NOTSET  # what a command does to the log ends with it
    assert run(["nets", "--quiet", "--verbose"]) == 2
    assert logging.getLogger("vggfeat").level == logging.NOTSET
    assert capsys.readouterr().err == "vggfeat: --quiet and --verbose: choose one\n"


def test_tables_fit_80_columns_and_no_color_is_honoured(tmp_path):
    from making import clusters, write_descriptors

    dataset, values = clusters([20, 25, 30])
    path = write_descriptors(tmp_path / "d.h5", dataset, values)
    environment = {**os.environ, "COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1"}
    for args in (["svm", str(path), "--C", "1"], ["nets"]):
        done = subprocess.run([sys.executable, "-m", "vggfeat", *args], env=environment, capture_output=True, text=True)
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr.replace(str(path), ""))
        assert max(map(len, text.splitlines())) <= 80
        colours = re.findall(r"\x1b\[([0-9;]*)m", done.stdout + done.stderr)
        assert set(colours) <= {"", "0", "1"}, "bold is no colour"


def test_a_name_that_is_no_utf8_is_an_escape_in_json(capsys):
    from vggfeat.cli.console import print_json

    print_json({"caf\udce9": "né"})
    text = capsys.readouterr().out
    assert '"caf\\udce9": "né"' in text
    assert json.loads(text) == {"caf\udce9": "né"}


def test_info_of_a_model_says_how_to_make_it_again(tmp_path, monkeypatch, capsys):
    from making import clusters, write_descriptors

    monkeypatch.chdir(tmp_path)
    dataset, values = clusters([20, 25, 30])
    write_descriptors(Path("my d.h5"), dataset, values)
    assert run(["svm", "my d.h5", "--C", "0.1,1", "--num-splits", "2", "-o", "m.h5", "--quiet"]) == 0
    capsys.readouterr()
    assert run(["info", "m.h5", "--json"]) == 0
    extract, svm = json.loads(capsys.readouterr().out)["command"].split(" && ")
    assert extract == (
        "vggfeat extract --net D --weights oxford --scales 256 --aggregate stack --no-exif --precision fp32 "
        "-o 'my d.h5' --dataset folder"
    )
    assert svm == "vggfeat svm 'my d.h5' --C 0.1,1.0 --num-splits 2 -o m.h5"
    before = Path("m.h5").read_bytes()
    assert run([*shlex.split(svm)[1:], "--quiet"]) == 0
    assert Path("m.h5").read_bytes() == before


@pytest.mark.parametrize("output", ["runs/D", "net.pt", "a.b/net.x.pt"])
def test_a_checkpoint_tells_the_output_that_its_run_was_given(output):
    from vggfeat.training.files import RunFiles

    files = RunFiles.of(output)
    assert RunFiles.output_of(files.best) == RunFiles.output_of(files.last) == Path(output)


def test_a_checkpoints_command_trains_by_the_same_recipe():
    from dataclasses import asdict

    from vggfeat.cli.train import _setting
    from vggfeat.page.commands import train_command
    from vggfeat.training.recipe import load_recipe

    changes = {
        "net": "E",
        "width": 0.5,
        "augment.S": [256, 512],
        "data.dataset": "folder",
        "init.checkpoint": "a b.pt",
        "sgd.learning_rate": 0.003,
        "augment.flip": False,
    }
    recipe = load_recipe(None, changes)
    words = shlex.split(train_command(asdict(recipe), output="x.pt"))
    assert words[:6] == ["vggfeat", "train", "--net", "E", "--dataset", "folder"]
    assert words[-2:] == ["-o", "x.pt"]
    settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    again = load_recipe(None, {"net": "E", "data.dataset": "folder"} | dict(map(_setting, settings)))
    assert again == recipe
    assert len(settings) == 5


@pytest.mark.parametrize(("world", "ended"), [("1", ["the interpreter's end"]), ("2", [])])
def test_a_process_of_torchrun_leaves_the_interpreter_as_it_is(world, ended):
    """Now and then gloo's threads abort a training of two processes at the interpreter's end, when all is done."""
    code = "import atexit; atexit.register(print, \"the interpreter's end\"); from vggfeat.cli import main; main(['--version'])"
    placed = os.environ | {"RANK": "0", "WORLD_SIZE": world}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=placed)
    assert done.returncode == 0, done.stderr
    version, *rest = done.stdout.splitlines()
    assert version.startswith("vggfeat, version ")
    assert rest == ended


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
)
def test_torchs_idle_threads_soon_leave_the_cores_to_others_unless_told_otherwise(given, expected, photos, tmp_path):
    usual = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = usual | given | {"OMP_DISPLAY_ENV": "verbose"}  # libgomp prints what it goes by
    command = ["extract", "--weights", "none", "--net", "A", "--width", "0.03", "--scales", "224", str(photos)]
    args = [sys.executable, "-m", "vggfeat", *command, "-o", str(tmp_path / "x.h5")]
    done = subprocess.run(args, env=environment, capture_output=True, text=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch has no libgomp")
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr


# Choices.


def literals(path: Path) -> list[tuple[str, ...]]:
    """The lists and tuples of two or more texts in a file's code."""
    return [
        tuple(element.value for element in node.elts)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List | ast.Tuple)
        and len(node.elts) > 1
        and all(isinstance(element, ast.Constant) and isinstance(element.value, str) for element in node.elts)
    ]


def choices() -> dict[str, set[str]]:
    """The names of every option of every verb that takes one of several."""
    return {
        f"{verb} {param.opts[0]}": set(map(str, param.type.choices))
        for verb in VERBS
        for param in vggfeat.get_command(None, verb).params
        if isinstance(param.type, click.Choice)
    }


def test_options_take_their_choices_from_the_library():
    """A name that the library adds shows up on the command line: no file of it types a list again."""
    offered = {name: names for name, names in choices().items() if name != "bench what"}
    assert {"extract --aggregate", "svm --loss", "train --task", "download --source", "evaluate --view"} <= set(offered)
    retyped = [
        f"{path.name}: {words} of {name}"
        for path in sorted(Path(cli.__file__).parent.glob("*.py"))
        for words in literals(path)
        for name, names in offered.items()
        if set(words) == names
    ]
    assert retyped == []


@pytest.mark.parametrize(
    ("weights", "expected", "flags"),
    [
        ("none", RANDOM, []),
        ("none", OXFORD, ["--preprocessing", "oxford"]),
        ("none", replace(RANDOM, scale=2.0), ["--preprocessing", "FILE.toml"]),
        ("oxford", OXFORD, []),
        ("bare.pth", TORCHVISION, ["--preprocessing", "torchvision"]),
        ("trained.pt", replace(RANDOM, mean=(1.0, 2.0, 3.0)), []),
    ],
)
def test_a_repeated_extraction_says_what_the_weights_do_not(weights, expected, flags):
    net = {"net": "D", "weights": weights, "weights_sha256": "0", "width": 1.0, "preprocessing": asdict(expected)}
    words = shlex.split(extract_command(settings(nets=[net]), "images", Naming()))
    at = words.index("--preprocessing") if "--preprocessing" in words else len(words)
    assert words[at : at + 2] == flags


@pytest.mark.parametrize(("width", "text"), [(1.0, "1"), (0.5, "0.5"), (1 / 24, "0.041666666666666664")])
def test_a_repeated_extraction_gives_the_width_exactly_and_as_short_as_it_can(width, text):
    net = {"net": "A", "weights": "none", "weights_sha256": "0", "width": width, "preprocessing": asdict(RANDOM)}
    words = shlex.split(extract_command(settings(nets=[net]), "images", Naming()))
    assert words[words.index("--width") + 1] == text
    assert float(text) == width


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("folder", "'vggfeat extract --dataset folder --data DIR'"),
        ("ilsvrc2012", "'vggfeat extract --dataset ilsvrc2012 --data DIR'"),
        ("voc2012-action", "'vggfeat extract --dataset voc2012-action --data DIR'"),
        ("voc2007", "'vggfeat extract --dataset voc2007' (its images: 'vggfeat download --dataset voc2007')"),
    ],
)
def test_advice_names_a_download_only_where_there_is_one(name, advice, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["svm", "--dataset", name]) == 2
    assert capsys.readouterr().err == (
        f"vggfeat: no descriptors/{name}-*.h5 here: name the files, or extract the data set: {advice}\n"
    )


def test_a_submission_of_pictures_of_ones_own_is_refused(tmp_path, capsys):
    command = ["evaluate", "--net", "A", "--weights", "none", "--dataset", "folder", "--data", str(tmp_path)]
    assert run([*command, "--submission", str(tmp_path / "s.txt")]) == 2
    assert capsys.readouterr().err == "vggfeat: --submission goes with --dataset ilsvrc2012\n"


def test_ctrl_c_while_python_imports_the_command_line_is_told_in_a_line():
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'vggfeat.cli.options':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from vggfeat.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vggfeat: interrupted\n")
