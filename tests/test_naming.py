"""A file records how its images, weights and calibration were named, so that commands on pages and in `info` repeat it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from making import commands_on, settings

from vggfeat.cli import run
from vggfeat.datasets import listing
from vggfeat.datasets.listing import from_list
from vggfeat.datasets.origin import LONGEST, Origin
from vggfeat.page.commands import extract_command, resumed
from vggfeat.store import read_descriptors
from vggfeat.store.naming import Naming

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--scales", "224", "--precision", "fp32", "--quiet"]


def shown(path, capsys):
    """The command that `info` shows."""
    capsys.readouterr()
    assert run(["info", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["command"]


@pytest.fixture
def classes(photos, tmp_path, monkeypatch):
    """`own`, two classes of ten photos each, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        target = tmp_path / "own" / "ab"[number % 2] / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((photos / f"{number % 6}.jpg").read_bytes())
    return tmp_path


def test_a_models_commands_make_its_descriptors_with_their_labels_and_itself_again(classes, capsys):
    assert run(["extract", "own", *NARROW, "-o", "own.h5"]) == 0
    assert run(["svm", "own.h5", "-o", "model.h5", "--quiet", "--report", "page"]) == 0
    command = shown("model.h5", capsys)
    assert " -o own.h5 own && vggfeat svm own.h5 " in command
    assert commands_on((classes / "page" / "index.html").read_text(encoding="utf-8"))[0].endswith(
        " -o own.h5 own --resume"
    )
    before = {name: (classes / name).read_bytes() for name in ("own.h5", "model.h5")}
    for name in before:
        (classes / name).unlink()
    line = command.replace("vggfeat ", f"{shlex.quote(sys.executable)} -m vggfeat ")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert {name: (classes / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("given", [["own/a/0.jpg", "own/b/1.jpg"], ["--list", "list.txt"], ["--data", "own"]])
def test_the_command_of_a_file_makes_it_again_however_its_images_were_named(classes, given, capsys):
    (classes / "list.txt").write_text("own/a/0.jpg\nown/b/3.jpg\n", encoding="utf-8")
    assert run(["extract", *given, *NARROW, "-o", "x.h5"]) == 0
    words = shlex.split(shown("x.h5", capsys))
    before = (classes / "x.h5").read_bytes()
    assert run([*words[1:], "--overwrite", "--quiet"]) == 0
    assert (classes / "x.h5").read_bytes() == before


def test_shards_merge_to_the_bytes_of_one_process_names_included(classes):
    assert run(["extract", "own", *NARROW, "-o", "whole.h5"]) == 0
    for number in range(2):
        assert run(["extract", "own", *NARROW, "-o", "x.h5", "--shard", f"{number}/2"]) == 0
    assert run(["merge", "x.shard-0-of-2.h5", "x.shard-1-of-2.h5", "-o", "x.h5", "--quiet"]) == 0
    assert (classes / "x.h5").read_bytes() == (classes / "whole.h5").read_bytes()
    assert read_descriptors("x.h5").naming.origin == Origin(paths=("own",))


def test_a_calibration_is_in_the_command_and_the_images_own_is_not(classes, capsys):
    (classes / "some.txt").write_text("own/a/0.jpg\nown/b/3.jpg\n", encoding="utf-8")
    for name, flags in (("x.h5", ["--calibration", "some.txt"]), ("y.h5", [])):
        assert run(["extract", "own", *NARROW, "--precision", "int8", *flags, "-o", name]) == 0
        words = shlex.split(shown(name, capsys))
        assert ("--calibration" in words) == bool(flags)
        if flags:
            assert words[words.index("--calibration") + 1] == "some.txt"


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no /dev/fd here")
def test_a_list_that_is_gone_is_not_named(tmp_path):
    """`--list <(find ..)` is /dev/fd/63, another file or none at the next command."""
    (tmp_path / "list.txt").write_text("a.jpg\n")
    assert from_list(tmp_path / "list.txt").origin == Origin(list_file=str(tmp_path / "list.txt"))
    with (tmp_path / "list.txt").open() as stream:
        assert from_list(f"/dev/fd/{stream.fileno()}").origin is None
    ends = os.pipe()
    os.write(ends[1], b"a.jpg\n")
    os.close(ends[1])
    assert from_list(f"/dev/fd/{ends[0]}").samples[0].id == "a.jpg"
    os.close(ends[0])
    os.mkfifo(tmp_path / "fifo")
    assert not listing._lasts(tmp_path / "fifo")
    assert listing._lasts("https://host/list.txt")


def test_names_that_came_from_a_pipe_or_are_very_long_are_not_recorded():
    paths = tuple(f"{number:05}.jpg" for number in range(2000))
    assert sum(map(len, paths)) > LONGEST
    assert Naming(Origin(paths=paths)).attributes() == Naming().attributes() == {}
    assert Naming.of(Naming(Origin(paths=paths[:9])).attributes()).origin == Origin(paths=paths[:9])


@pytest.mark.parametrize("origin", ["no JSON", "[]", "{}", '{"paths": 3, "list_file": "", "nul": false, "data": ""}'])
def test_a_damaged_origin_is_an_unknown_one(origin):
    attributes = Naming(Origin(list_file="l"), ("a.pt",)).attributes()
    assert Naming.of(attributes) == Naming(Origin(list_file="l"), ("a.pt",))
    assert Naming.of({**attributes, "origin": origin}).origin is None
    del attributes["origin"]
    assert Naming.of(attributes) == Naming(None, ("a.pt",))


WHY = "(a pipe, a program, or too many names)"


@pytest.mark.parametrize(("number", "images"), [(1, "1 image was"), (20, "20 images were")])
def test_info_says_that_images_from_a_pipe_cannot_be_named_and_how_many_they_are(classes, number, images, capsys):
    listed = "".join(f"own/{'ab'[i % 2]}/{i}.jpg\n" for i in range(number))
    command = [sys.executable, "-m", "vggfeat", "extract", *NARROW, "-o", "piped.h5"]
    subprocess.run(command, input=listed, text=True, check=True, capture_output=True)
    note = f"piped.h5 does not record how its {images} named {WHY}: - stands for a list of them, one path a line."
    assert run(["info", "piped.h5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"].endswith(" -o piped.h5 -"), told["notes"]) == (True, [note])
    assert run(["info", "piped.h5"]) == 0
    assert capsys.readouterr().out.endswith(f" -o piped.h5 -\n{note}\n")


def test_a_page_and_a_model_say_that_their_images_cannot_be_named(classes, capsys):
    assert run(["extract", "own", *NARROW, "-o", "own.h5"]) == 0
    with h5py.File("own.h5", "r+") as file:
        del file.attrs["origin"]
    assert run(["svm", "own.h5", "--C", "1", "-o", "model.h5", "--quiet", "--report", "page"]) == 0
    page = (classes / "page" / "index.html").read_text(encoding="utf-8")
    assert commands_on(page)[0].endswith(" -o own.h5 - --resume")
    note = f"own.h5 does not record how its 20 images were named {WHY}: - stands for a list of them, one path a line."
    assert f'<p class="sub">{note}</p>' in page
    capsys.readouterr()
    assert run(["info", "model.h5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == [note.replace("20 images", "images")]


def test_a_shard_whose_images_cannot_be_named_speaks_of_its_list(classes, capsys):
    assert run(["extract", "own", *NARROW, "-o", "x.h5", "--shard", "0/2"]) == 0
    with h5py.File("x.shard-0-of-2.h5", "r+") as file:
        del file.attrs["origin"]
    capsys.readouterr()
    assert run(["info", "x.shard-0-of-2.h5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["command"].endswith(" --shard 0/2 --list FILE")
    assert told["notes"][0].endswith(": FILE stands for the whole list, one path a line.")


def test_a_named_list_needs_no_words(classes, capsys):
    assert run(["extract", "own", *NARROW, "-o", "own.h5"]) == 0
    capsys.readouterr()
    assert run(["info", "own.h5", "--json"]) == 0
    assert "notes" not in json.loads(capsys.readouterr().out)


def test_a_flag_that_is_added_stands_before_paths_that_look_like_flags():
    command = resumed(extract_command(settings(), "images", Naming(Origin(paths=("-a.jpg", "b.jpg")))))
    assert command.endswith(" --precision fp32 --resume -- -a.jpg b.jpg")


def test_pages_find_the_pictures_where_the_descriptors_say_they_were(classes, capsys):
    """Without `--data`: a folder's name is in the file, and "data" would be another place."""
    assert run(["extract", "--data", "own", *NARROW, "-o", "x.h5"]) == 0
    for command in (["svm", "x.h5", "--C", "1"], ["similar", "x.h5"]):
        assert run([*command, "--report", "page", "--quiet"]) == 0
        page = (classes / "page" / "index.html").read_text(encoding="utf-8")
        assert "data:image/jpeg" in page
        again, own = commands_on(page)
        assert again.endswith("-o x.h5 --dataset folder --data own --resume")
        assert "--data" not in own
        for line in (again, own):
            assert run([*shlex.split(line)[1:], "--quiet"]) == 0
    (classes / "own").rename(classes / "moved")
    assert run(["svm", "x.h5", "--C", "1", "--report", "page", "--data", "moved", "--quiet"]) == 0
    page = (classes / "page" / "index.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in page and "--data moved" in commands_on(page)[0]


@pytest.mark.parametrize("again", [["--scales", "224"], ["--aggregate", "stack"]])
def test_a_models_command_makes_its_descriptors_as_they_are_not_as_they_were_read(classes, again, capsys):
    scales = ["--scales", "224,256", "--aggregate", "average", "--keep-scales"]
    assert run(["extract", "own", *NARROW, *scales, "-o", "x.h5"]) == 0
    assert run(["svm", "x.h5", "--C", "1", *again, "-o", "m.h5", "--quiet"]) == 0
    extraction, fit = shown("m.h5", capsys).split(" && ")
    assert "--scales 224,256 --aggregate average" in extraction
    assert " ".join(again) in fit
    assert run([*shlex.split(extraction)[1:], "--resume", "--quiet"]) == 0
