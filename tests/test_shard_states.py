"""`info --shards` and `info --failed`: how far an extraction is, who writes it, and what has failed."""

import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest
from test_merge import DATASET, N, recorded, shards, write

from vggfeat.cli import run
from vggfeat.cli.listings import _ranges
from vggfeat.errors import StoreError
from vggfeat.stages.info import failures
from vggfeat.stages.info import shards as state_of
from vggfeat.store.locking import OutputLock, holder, lock_path
from vggfeat.store.shards import Shard
from vggfeat.system.locking import fcntl


@pytest.fixture
def half(tmp_path):
    """Of five shards (16, 16, 16, 16 and 11 rows) one is whole, two have failed rows, one rows to do, one is missing."""
    parts = shards(tmp_path / "a.h5", 5, failed=(17, 35, 36), pending=(50, 51, 52))
    parts[4].unlink()
    return tmp_path / "a.h5"


def test_the_state_of_every_shard_is_told_with_the_command_that_mends_it(half):
    state = state_of(half)
    assert [one.state for one in state.shards] == ["done", "done", "done", "unfinished", "missing"]
    assert [(one.rows, one.done, one.failed, one.pending) for one in state.shards] == [
        (16, 16, 0, 0),
        (16, 15, 1, 0),
        (16, 14, 2, 0),
        (16, 13, 0, 3),
        (None, 0, 0, None),
    ]
    assert (state.total_rows, state.counts) == (N, {"done": 58, "failed": 3, "shards_done": 3})
    assert [one.command for one in state.shards[:3]] == [None] * 3
    assert state.shards[3].command.endswith(f"-o {half} --shard 3/5 --dataset toy --resume")
    assert state.shards[4].command.endswith(f"-o {half} --shard 4/5 --dataset toy")
    assert state_of(Shard(2, 5).path(half)) == state, "one of the shards stands for all"


def test_the_command_prints_a_table_the_sums_and_what_to_do(half, capsys):
    assert run(["info", "--shards", str(half)]) == 0
    table, todo = capsys.readouterr().out.split("\n\n")
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["shard", "state", "rows", "done", "failed", "to", "do", "writer", "or", "reason"]
    assert lines[2] == ["1/5", "done", "16", "15", "1", "0"]
    assert lines[4:6] == [["3/5", "unfinished", "16", "13", "0", "3"], ["4/5", "missing", "-", "0", "0", "-"]]
    assert table.splitlines()[-1] == "3 of 5 shards done; 58 of 75 rows done, 3 failed"
    first, *commands = todo.splitlines()
    assert first == "to do (--array=3-4):"
    assert [shlex.split(command)[:2] for command in commands] == [["vggfeat", "extract"]] * 2
    assert run(["info", "--shards", str(half), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["done"], result["failed"], result["shards_done"], len(result["shards"])) == (58, 3, 3, 5)
    assert result["shards"][4]["state"] == "missing"


def test_whole_shards_are_to_be_merged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shards(tmp_path / "a b.h5", 2)
    assert run(["info", "--shards", "a b.h5"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\n\nnext: vggfeat merge 'a b.shard-'*-of-2.h5 -o 'a b.h5'\n")
    command = out.rpartition("next: vggfeat ")[2].strip()
    done = subprocess.run(f"{sys.executable} -m vggfeat {command}", shell=True, capture_output=True, text=True)
    assert done.stdout == "a b.h5\n", done.stderr


def test_merged_shards_are_merged_again(tmp_path, capsys):
    shards(tmp_path / "a.h5", 2)
    (tmp_path / "a.h5").write_text("")
    assert run(["info", "--shards", str(tmp_path / "a.h5")]) == 0
    assert capsys.readouterr().out.endswith(f"-of-2.h5 -o {tmp_path}/a.h5 --overwrite\n")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"settings": recorded(flip=False)}, "flip false there, true here"),
        ({"dataset": replace(DATASET, name="else")}, 'dataset "else" there, "toy" here'),
        ({"dataset": replace(DATASET, samples=DATASET.samples[::-1])}, "made from another list"),
    ],
    ids=["settings", "data set", "list"],
)
def test_a_shard_of_another_extraction_is_told_and_made_again(tmp_path, capsys, other, said):
    """`merge` refuses it, after hours of waiting for the others."""
    parts = shards(tmp_path / "a.h5", 3)
    parts[0].unlink()
    write(tmp_path / "a.h5", shard=Shard(0, 3), **other)
    state = state_of(tmp_path / "a.h5")
    assert [one.state for one in state.shards] == ["different", "done", "done"]
    assert (state.shards[0].error, state.counts["shards_done"]) == (said, 2)
    assert state.shards[0].command.endswith("--shard 0/3 --dataset toy --overwrite")
    assert "--no-flip" not in state.shards[0].command
    assert run(["info", "--shards", str(tmp_path / "a.h5")]) == 0
    out = capsys.readouterr().out
    assert "to do (--array=0):" in out and "next:" not in out


def test_shards_of_two_numbers_are_told_apart(tmp_path, capsys):
    shards(tmp_path / "a.h5", 2)
    shards(tmp_path / "a.h5", 3)[1].unlink()
    assert run(["info", "--shards", str(tmp_path / "a.h5")]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 shards done; 75 of 75 rows done, 0 failed\n\nnext: vggfeat merge " in out
    assert (
        "2 of 3 shards done; " in out and "\n\n2 of 3 shards done; " in out and "to do, of 3 shards (--array=1):" in out
    )


def test_a_folder_has_no_shards(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["info", "--shards", "."]) == 1
    assert capsys.readouterr().err.startswith("vggfeat: . is a folder without the output of an extraction")


def test_a_shard_that_a_process_is_writing_names_that_process(half, capsys):
    with OutputLock(Shard(4, 5).path(half)), OutputLock(Shard(3, 5).path(half)):
        state = state_of(half)
        assert [one.state for one in state.shards[3:]] == ["running", "running"]
        assert run(["info", "--shards", str(half)]) == 0
        out = capsys.readouterr().out
        assert f"process {os.getpid()} on " in out
        assert "to do (" not in out
        assert "next:" not in out
    assert holder(Shard(4, 5).path(half)) is None
    assert state_of(half).shards[4].state == "missing"


def test_a_lock_of_a_killed_process_does_not_count_and_a_look_stops_no_writer(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from vggfeat.store.locking import OutputLock; "
        "lock = OutputLock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    path = Shard(0, 2).path(tmp_path / "a.h5")
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "locked\n"
    assert holder(path).startswith(f"process {child.pid} on ")
    [first, second] = state_of(tmp_path / "a.h5").shards
    assert (first.state, first.rows, second.state, second.command) == ("running", None, "missing", None)
    child.kill()
    child.wait()
    assert holder(path) is None
    looks = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from vggfeat.store.locking import holder\n"
            "print('go', flush=True)\nwhile True: holder(Path(sys.argv[1]))",
            str(path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert looks.stdout.readline() == "go\n"
        end = time.monotonic() + 2
        while time.monotonic() < end:
            OutputLock(path).release()
    finally:
        looks.kill()
        looks.wait()


@pytest.mark.skipif(fcntl is None, reason="this system has no flock")
def test_a_writer_waits_for_a_look_however_long_it_takes(tmp_path):
    path = tmp_path / "a.h5"
    with lock_path(path).open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        with ThreadPoolExecutor(1) as pool:
            lock = pool.submit(OutputLock, path)
            assert not wait([lock], timeout=0.5).done
            fcntl.flock(look, fcntl.LOCK_UN)
            with lock.result(timeout=60), pytest.raises(StoreError, match=f"being written by process {os.getpid()} on"):
                OutputLock(path)


def test_an_unreadable_shard_is_made_again(half):
    Shard(1, 5).path(half).write_bytes(b"no file of ours")
    one = state_of(half).shards[1]
    assert (one.state, one.error) == ("unreadable", f"{one.path} is not a descriptor file (not HDF5)")
    assert one.command.endswith("--shard 1/5 --dataset toy --overwrite")


def test_shards_of_other_outputs_do_not_count_and_none_is_an_error(tmp_path, capsys):
    write(tmp_path / "a.h5")
    write(tmp_path / "ab.h5", shard=Shard(0, 2))
    (tmp_path / "a.shard-9-of-2.h5").touch()
    with pytest.raises(StoreError) as caught:
        state_of(tmp_path / "a.h5")
    assert str(caught.value) == f"no shards of {tmp_path}/a.h5 here ({tmp_path}/a.shard-*-of-*.h5)"
    assert run(["info", "--shards", str(tmp_path / "a.h5")]) == 1
    assert capsys.readouterr().err == f"vggfeat: {caught.value}\n"
    shards(tmp_path / "a.h5", 2)
    write(tmp_path / "a.h5", shard=Shard(1, 3))
    assert [one.shard for one in state_of(tmp_path / "a.h5").shards] == ["0/2", "1/2", "0/3", "1/3", "2/3"]


def test_failed_images_are_lines_of_id_and_reason(tmp_path, half, capsysbinary):
    whole = write(tmp_path / "whole.h5", failed=(3, 70))
    assert run(["info", "--failed", str(whole)]) == 0
    expected = b"caf\xe9/3\tlost 3\ncaf\xe9/70\tlost 70\n"
    assert capsysbinary.readouterr().out == expected
    assert run(["info", "--failed", "--json", str(whole)]) == 0
    assert json.loads(capsysbinary.readouterr().out)["failed"] == {
        "caf\udce9/3": "lost 3",
        "caf\udce9/70": "lost 70",
    }
    assert run(["info", "--failed", "--shards", str(half)]) == 0
    assert capsysbinary.readouterr().out == b"caf\xe9/17\tlost 17\ncaf\xe9/35\tlost 35\ncaf\xe9/36\tlost 36\n"
    assert failures(whole) == {"caf\udce9/3": "lost 3", "caf\udce9/70": "lost 70"}


def test_failed_ids_with_tabs_and_line_breaks_keep_their_line(tmp_path, capsys):
    odd = replace(DATASET, samples=(replace(DATASET.samples[0], id='a\tb\n"c"'), *DATASET.samples[1:]))
    path = write(tmp_path / "odd.h5", dataset=odd, failed=(0,))
    assert run(["info", "--failed", str(path)]) == 0
    [line] = capsys.readouterr().out.splitlines()
    id, reason = line.split("\t")
    assert (json.loads(id), reason) == ('a\tb\n"c"', "lost 0")


def test_only_descriptor_files_have_failed_images(tmp_path, capsys):
    (tmp_path / "net.pt").write_bytes(b"PK")
    assert run(["info", "--failed", str(tmp_path / "net.pt")]) == 1
    assert capsys.readouterr().err == f"vggfeat: {tmp_path}/net.pt is not a descriptor file (not HDF5)\n"
    assert run(["info", "--failed", str(write(tmp_path / "fine.h5"))]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("numbers", "text"), [([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8")])
def test_indices_are_those_that_slurm_takes(numbers, text):
    assert _ranges(numbers) == text
