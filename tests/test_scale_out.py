"""Extraction by several processes, from tar files, through lost disks and kills: always the file of one process."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from needs import need

import vggfeat
from vggfeat.cli import run
from vggfeat.datasets import Sample
from vggfeat.datasets.outage import until_outage
from vggfeat.errors import OutageError
from vggfeat.stages.merge import merge
from vggfeat.store.pooling import Described

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32", "--scales", "224"]
COUNT = 40


@pytest.fixture
def listed(photos, tmp_path):
    """A list of 40 pictures (three blocks) of which one is broken."""
    paths = []
    for i in range(COUNT):
        paths.append(photos / f"copy{i:02}.jpg")
        shutil.copy(photos / f"{i % 6}.jpg", paths[-1])
    paths[20].write_text("no image")
    (tmp_path / "list").write_text("\n".join(map(str, paths)) + "\n")
    return tmp_path / "list"


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_shards_merge_to_the_file_of_one_process(listed, tmp_path, capsys):
    command = ["extract", "--list", str(listed), *NARROW]
    assert run([*command, "-o", str(tmp_path / "whole.h5")]) == 3
    capsys.readouterr()
    for i, code in enumerate((0, 3)):
        assert run([*command, "--shard", f"{i}/2", "-o", str(tmp_path / "a.h5")]) == code
        captured = capsys.readouterr()
        assert captured.out == f"{tmp_path}/a.shard-{i}-of-2.h5\n"
        note = f"when all 2 shards are done: vggfeat merge {tmp_path}/a.shard-*-of-2.h5 -o {tmp_path}/a.h5"
        assert (note in captured.err) == (i == 0)
    (tmp_path / "a.shard-1-of-2.h5").unlink()
    parts = [str(tmp_path / f"a.shard-{i}-of-2.h5") for i in range(2)]
    assert run(["merge", parts[0], "-o", str(tmp_path / "a.h5")]) == 1
    advice = capsys.readouterr().err
    again = advice[advice.index("vggfeat extract") :].split()[1:]
    assert run(again) == 3, "a lost shard is made again alone, by the command of the error"
    assert run(["merge", *parts, "-o", str(tmp_path / "a.h5")]) == 3
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_torchruns_ranks_are_shards(listed, tmp_path):
    """Two processes under torchrun; a pipe, which they would tear apart, is refused with the way out."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "vggfeat",
        "extract",
        *NARROW,
        "-o",
        str(tmp_path / "a.h5"),
    ]
    done = subprocess.run([*command, "--list", str(listed)], capture_output=True, text=True)
    names = [f"{tmp_path}/a.shard-{i}-of-2.h5" for i in range(2)]
    assert sorted(done.stdout.split()) == names, done.stderr
    assert done.returncode == 0, done.stderr  # 3 would be a failed job to torchrun
    assert run(["extract", "--list", str(listed), *NARROW, "-o", str(tmp_path / "whole.h5")]) == 3
    merge(names, tmp_path / "a.h5")
    merged, whole = vggfeat.read_descriptors(tmp_path / "a.h5"), vggfeat.read_descriptors(tmp_path / "whole.h5")
    assert merged.ids == whole.ids
    # torchrun gives every process one thread: on some machines that is another order of summing.
    assert np.allclose(merged.read(), whole.read(), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("sharded", [{"args": ["--shard", "0/2"]}, {"rank": "0"}])
def test_several_processes_cannot_share_a_pipe(sharded, monkeypatch, capsys):
    if "rank" in sharded:
        monkeypatch.setenv("RANK", sharded["rank"])
        monkeypatch.setenv("WORLD_SIZE", "2")
    for source in (["-"], ["--list", "-"]):
        assert run(["extract", *source, *sharded.get("args", [])]) == 2
        assert capsys.readouterr().err == (
            "vggfeat: several processes cannot share a list on stdin: write it to a file and give every one --list FILE\n"
        )


def test_a_shard_of_a_shard_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run(["extract", ".", "--shard", "0/2"]) == 2
    assert capsys.readouterr().err == ("vggfeat: --shard under torchrun, whose rank 1 of 4 is a shard: leave it out\n")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_pictures_in_tar_files_give_the_descriptors_of_files(photos, tmp_path, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = sorted(photos.iterdir())
    for number in range(2):
        with tarfile.open(f"data-{number}.{suffix}", "w:gz" if suffix.endswith("gz") else "w") as tar:
            for path in pictures[number::2]:
                tar.add(path, path.name)
    assert run(["extract", f"data-{{0..1}}.{suffix}", *NARROW, "-o", "tar.h5"]) == 0
    unpacked = [str(path) for number in range(2) for path in pictures[number::2]]
    assert run(["extract", *unpacked, *NARROW, "-o", "files.h5"]) == 0
    made = vggfeat.read_descriptors("tar.h5")
    assert made.ids == [f"data-{n}.{suffix}/{path.name}" for n in range(2) for path in pictures[n::2]]
    assert np.array_equal(made.read(), vggfeat.read_descriptors("files.h5").read())


def test_a_cut_tar_file_costs_what_it_lost_and_exit_code_3(photos, tmp_path, capsys):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmember("4.jpg")
    os.truncate(tmp_path / "a.tar", member.offset_data + member.size // 2)
    assert run(["extract", str(tmp_path / "a.tar"), *NARROW, "-o", str(tmp_path / "a.h5"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["failed"] == {
        f"{tmp_path}/a.tar/4.jpg": f"{tmp_path}/a.tar ends inside of it",
        f"{tmp_path}/a.tar": "damaged after 4.jpg: unexpected end of data; what follows is lost",
    }
    assert len(vggfeat.read_descriptors(tmp_path / "a.h5").done) == 4


def test_a_lost_disk_stops_the_run_and_costs_no_image_its_row(photos, tmp_path, capsys):
    """60 pictures of a disk that stays, then 140 of one that has gone; when it is back, resume completes the file."""
    share = tmp_path / "share"
    share.mkdir()
    paths = [photos / f"copy{i:03}.jpg" for i in range(60)] + [share / f"{i:03}.jpg" for i in range(140)]
    for path in paths:
        shutil.copy(photos / "0.jpg", path)
    (tmp_path / "list").write_text("\n".join(map(str, paths)))
    share.rename(tmp_path / "gone")
    out = tmp_path / "a.h5"
    command = ["extract", "--list", str(tmp_path / "list"), *NARROW, "--no-flip", "-o", str(out)]
    assert run(command) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(
        f"vggfeat: 100 images in a row cannot be read, the last {share}/099.jpg: no such file or directory; their "
        "rows stay pending: when the disk is back, run it again with --resume"
    )
    status = vggfeat.read_descriptors(out).status
    assert status.tolist() == [1] * 48 + [0] * 152, "the block in which it began is left whole too"
    (tmp_path / "gone").rename(share)
    assert run([*command, "--resume"]) == 0
    resumed = out.read_bytes()
    assert run([*command, "--overwrite"]) == 0
    assert out.read_bytes() == resumed
    shutil.rmtree(share)
    assert run([*command, "--overwrite", "--max-read-failures", "0"]) == 3
    assert vggfeat.read_descriptors(out).status.tolist() == [1] * 60 + [2] * 140


def passed(kinds: str, most: int) -> tuple[list[range], str]:
    """What until_outage passes on of blocks of four: `.` is read, `x` broken, `-` not to be had."""
    blocks = [range(i, min(i + 4, len(kinds))) for i in range(0, len(kinds), 4)]

    def described():
        for rows in blocks:
            failures = {i: "gone" for i, row in enumerate(rows) if kinds[row] != "."}
            unread = frozenset(i for i, row in enumerate(rows) if kinds[row] == "-")
            yield rows, Described(np.empty((len(rows), 1)), np.empty((len(rows), 1)), failures, unread)

    out: list[range] = []
    try:
        for rows, _ in until_outage(described(), [Sample(str(i), "") for i in range(len(kinds))], most):
            out.append(rows)
    except OutageError as error:
        return out, str(error)
    return out, ""


@pytest.mark.parametrize(
    ("kinds", "kept", "stops"),
    [
        ("...." * 3, 3, False),
        ("xxxx" * 9, 9, False),  # broken images are no outage
        ("..-- ---- .-..".replace(" ", ""), 3, False),  # six in a row, then one
        (".... ..-- ---- -x..".replace(" ", ""), 1, True),
        (".--- -.-- ---- -...".replace(" ", ""), 1, True),  # the first block was free again
        ("----" * 2, 0, True),
        ("---- --".replace(" ", ""), 2, False),  # the end comes first
    ],
)
def test_blocks_wait_while_they_may_be_an_outage(kinds, kept, stops):
    blocks, message = passed(kinds, 7)
    assert len(blocks) == kept
    assert blocks == sorted(blocks, key=lambda rows: rows.start)
    assert message.startswith("7 images in a row cannot be read, the last ") == stops


def test_without_a_limit_nothing_waits():
    assert passed("----" * 3, 0) == ([range(4), range(4, 8), range(8, 12)], "")


# One process that has run the command once forks all that are to be killed: its imports take longer than they run.
FORKS = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import vggfeat
from vggfeat.cli import run

def forked(args, delay=None):
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        os._exit(run(args))
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return time.monotonic() - started, os.waitstatus_to_exitcode(status)

kills, command, out = int(sys.argv[1]), sys.argv[3:], sys.argv[2]
assert run([*command, "-o", out + ".whole"]) == 0
seconds, code = forked([*command, "-o", out + ".whole", "--overwrite"])
assert code == 0, code
whole = open(out + ".whole", "rb").read()
rng = random.Random(0)
killed = 0
while killed < kills:
    _, code = forked([*command, "-o", out, *(["--resume"] if command[0] == "extract" else [])], rng.uniform(0, 1.1 * seconds))
    killed += code == -9
    if code == 0 or rng.random() < 0.3:
        again = ["--resume"] if command[0] == "extract" else ["--overwrite"]
        assert forked([*command, "-o", out, *again])[1] == 0
        assert open(out, "rb").read() == whole, f"after {killed} kills"
        os.remove(out)
assert forked([*command, "-o", out, "--resume" if command[0] == "extract" else "--overwrite"])[1] == 0
assert open(out, "rb").read() == whole
print(killed)
"""


def kill_at_random(kills, out, *command):
    need("os.fork")
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(kills), str(out), *command, "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == kills
    left = sorted(entry.name for entry in out.parent.iterdir())
    assert left == sorted([out.name, f"{out.name}.whole"]), "a clean end leaves nothing else"


def many(photos, tmp_path, count):
    (tmp_path / "list").write_text("".join(f"{i}\t{photos / f'{i % 6}.jpg'}\n" for i in range(count)))
    return ["extract", "--list", str(tmp_path / "list"), *NARROW, "--no-flip"]


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_an_extraction_killed_at_any_instant_resumes_to_the_same_bytes(photos, tmp_path, kills):
    (tmp_path / "out").mkdir()
    kill_at_random(kills, tmp_path / "out" / "a.h5", *many(photos, tmp_path, 48))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_merge_killed_at_any_instant_is_made_again(photos, tmp_path, kills):
    (tmp_path / "out").mkdir()
    command = many(photos, tmp_path, 48)
    for i in range(3):
        assert run([*command, "--shard", f"{i}/3", "-o", str(tmp_path / "a.h5")]) == 0
    parts = [str(path) for path in sorted(tmp_path.glob("a.shard-*"))]
    kill_at_random(kills, tmp_path / "out" / "m.h5", "merge", *parts)


def repaired(shard, capsys):
    """The command that `merge` gives for a shard that has gone, as words to paste."""
    shard.unlink()
    there = sorted(shard.parent.glob("*.shard-*"))
    assert run(["merge", *map(str, there), "-o", str(shard.parent / "merged.h5")]) == 1
    return shlex.split(capsys.readouterr().err.partition("make it with ")[2])[1:]


@pytest.mark.parametrize("kind", ["tars", "one list", "nul", "folder", "labelled", "data"])
def test_a_lost_shard_is_made_again_by_the_command_as_pasted(photos, tmp_path, kind, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures = sorted(photos.iterdir())
    for name in ("a", "b"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for number in range(12):
            shutil.copy(pictures[number % 6], tmp_path / "tree" / name / f"{number}.jpg")
    every = sorted((tmp_path / "tree").glob("*/*"))
    for number in range(2):
        with tarfile.open(f"data {number}.tar", "w") as tar:
            for path in every[number::2]:
                tar.add(path, f"{path.parent.name}-{path.name}")
    (tmp_path / "list").write_bytes(b"\n".join(os.fsencode(path) for path in every))
    (tmp_path / "nul").write_bytes(b"\0".join(os.fsencode(path) for path in every))
    images = {
        "tars": ["data {0..1}.tar"],
        "one list": ["--list", "list"],
        "nul": ["--list", "nul", "-0"],
        "folder": ["tree/a", "tree/b"],
        "labelled": ["tree"],
        "data": ["--dataset", "folder", "--data", "tree"],
    }[kind]
    for number in range(2):
        assert run(["extract", *images, *NARROW, "--shard", f"{number}/2", "-o", "x.h5"]) == 0
    capsys.readouterr()
    lost = tmp_path / "x.shard-1-of-2.h5"
    before = lost.read_bytes()
    assert run(repaired(lost, capsys)) == 0
    assert lost.read_bytes() == before
    assert run(["extract", *images, *NARROW, "-o", "whole.h5"]) == 0
    assert run(["merge", "x.shard-0-of-2.h5", "x.shard-1-of-2.h5", "-o", "x.h5"]) == 0
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_the_command_names_the_weights_file_where_it_was(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    vggfeat.load_net("A", None, width=1 / 16, device="cpu").save("nets/a.pt")
    command = ["extract", str(photos), "--weights", "nets/a.pt", "--scales", "224", "--precision", "fp32", "-o", "x.h5"]
    for number in range(2):
        assert run([*command, "--shard", f"{number}/2"]) == 0
    capsys.readouterr()
    again = repaired(tmp_path / "x.shard-0-of-2.h5", capsys)
    assert again[again.index("--weights") + 1] == "nets/a.pt"
    assert run(again) == 0


def test_the_clusters_last_line_turns_3_into_0_and_no_other_code(listed, tmp_path):
    page = (Path(__file__).parents[1] / "recipes" / "cluster.md").read_text()
    (line,) = re.findall(r"^vggfeat extract --list list.txt .* \|\| \[ \$\? -eq 3 \]$", page, flags=re.M)
    line = line.replace("vggfeat", f"{sys.executable} -m vggfeat").replace("--net D", " ".join(NARROW))
    for list_file, code in ((listed, 0), ("nowhere", 1)):
        script = line.replace("list.txt", str(list_file)).replace("feats.h5", str(tmp_path / "feats.h5"))
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "7"}
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stderr
