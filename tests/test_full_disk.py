"""Disks without room: one clear line, nothing wrong in what is there, and the run goes on later."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import clusters, two_classes, write_descriptors
from needs import need

from vggfeat.classifiers.model_file import read_model
from vggfeat.cli import run
from vggfeat.errors import StoreError
from vggfeat.nets.weights import load_net
from vggfeat.stages.merge import merge
from vggfeat.store import DONE, PENDING, read_descriptors
from vggfeat.store.pooling import combine
from vggfeat.system.sparsefile import PAGE, SparseFile

CHILD = """
import resource, sys
sys.dont_write_bytecode = True  # a module cut short by the limit would stay in the environment
sys.path[:0] = [sys.argv[3]]
import numpy as np
from pathlib import Path
from making import clusters, write_descriptors
from vggfeat.errors import VggfeatError
from vggfeat.classifiers.model_file import Model, write_model
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.store.pooling import Described
from vggfeat.store.writer import DescriptorWriter
import vggfeat.store.rows as rows

kind, most = sys.argv[1], int(sys.argv[2])
limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    if kind == "descriptors":  # the room goes once the file is laid out: that needs its full length
        opened = rows.RowFile.__init__
        def full(self, path):
            opened(self, path)
            limit()
        rows.RowFile.__init__ = full
        dataset, values = clusters([60, 60], dim=1024)
        write_descriptors(Path("a.h5"), dataset, values)
    elif kind == "layout":
        limit()
        dataset, values = clusters([60, 60], dim=256)
        write_descriptors(Path("a.h5"), dataset, values)
    elif kind == "model":
        model = Model(np.ones((2, 999), np.float32), np.ones(2, np.float32), np.ones(2), ("a", "b"), False, (), {})
        write_model("m.h5", model)
        limit()
        write_model("m.h5", model)
    else:
        net = glorot_(VGG("A", width=1 / 256))
        net.save("n.pt")
        limit()
        net.save("n.pt")
except VggfeatError as error:
    print(f"{type(error).__name__}: {error}")
"""


def child(kind: str, most: int, folder: Path) -> str:
    """What a process says whose files may have so many bytes, as with a quota or on a full disk."""
    need("resource")
    words = [sys.executable, "-c", CHILD, kind, str(most), str(Path(__file__).parent)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def mounted(script: str, folder: Path, *words: str) -> str:
    """What a shell script says that may mount file systems of its own."""
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *words],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no unshare here to mount a small disk with")
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"no small disk can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL_DISK = """
mkdir disk && mount -t tmpfs -o size=260k none disk && cd disk || exit 77
"$@" 2>&1
cp --sparse=always a.h5 ..; cd .. && umount disk && rmdir disk
"""


def test_a_disk_that_fills_up_leaves_no_wrong_row_marked_done(tmp_path: Path) -> None:
    python = [sys.executable, "-c", CHILD, "descriptors", "-1", str(Path(__file__).parent)]
    said = mounted(SMALL_DISK, tmp_path, *python)
    assert said == "StoreError: a.h5: cannot write (No space left on device): mend that, then `resume`\n"
    made = read_descriptors(tmp_path / "a.h5")
    _, values = clusters([60, 60], dim=1024)
    right = combine([values.astype(np.float32)], "stack")
    assert 0 < len(made.done) < 120
    assert np.array_equal(made.read(made.done), right[made.done])
    assert (made.status[len(made.done) :] != DONE).all()


def test_a_limit_on_file_sizes_stops_the_run_with_its_rows_still_to_do(tmp_path: Path) -> None:
    said = child("descriptors", 60_000, tmp_path)
    assert said == "StoreError: a.h5: cannot write (File too large): mend that, then `resume`\n"
    assert (read_descriptors(tmp_path / "a.h5").status == PENDING).all()


def test_a_file_without_room_to_be_laid_out_does_not_appear(tmp_path: Path) -> None:
    assert child("layout", 60_000, tmp_path) == "VggfeatError: a.h5: cannot write: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", [0, 500, 3000, 7000])
def test_a_model_that_does_not_fit_leaves_the_former_one(tmp_path: Path, most: int) -> None:
    # Without room for a byte it ends at the name of who is writing, in the lock file.
    what = "VggfeatError: m.h5: cannot write" if most else "StoreError: m.h5: cannot write here"
    assert child("model", most, tmp_path) == f"{what}: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]
    assert read_model(tmp_path / "m.h5").coef.shape == (2, 999)


def test_a_checkpoint_that_does_not_fit_leaves_the_former_one(tmp_path: Path) -> None:
    said = child("checkpoint", 5000, tmp_path)
    assert said == "VggfeatError: n.pt: cannot write: no room on the disk, or a limit on file sizes\n"
    assert [path.name for path in tmp_path.iterdir()] == ["n.pt"]


# By way of the command lines.

LIMITED = """
import resource, sys
sys.dont_write_bytecode = True  # as above
from vggfeat.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""
NARROW = ["--net", "A", "--weights", "none", "--scales", "224", "--no-flip", "--precision", "fp32", "--quiet"]


def limited(most: int, *command: str) -> str:
    """The one line in which a command ends whose files may have so many bytes."""
    need("resource")
    words = [sys.executable, "-c", LIMITED, str(most), *command]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("vggfeat: ")] == lines[-1:]
    return lines[-1].removeprefix("vggfeat: ")


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_training_that_finds_no_room_keeps_its_former_state_and_goes_on_later(tmp_path: Path) -> None:
    data = two_classes(tmp_path / "tree", 10)

    def command(run: str, epochs: int, *more: str) -> list[str]:
        words = ["train", "--net", "A", "--width", "0.015625", "--precision", "fp32", "--dataset", "folder", "--quiet"]
        words += ["--data", str(data), "--batch-size", "4", "--S", "224", "--epochs", str(epochs)]
        return [*words, "-o", str(tmp_path / run), *more]

    assert run(command("run", 1)) == 0
    before = tree_of(tmp_path / "run")
    said = limited(20_000, *command("run", 2, "--resume"))
    assert said.endswith(".pt: cannot write: no room on the disk, or a limit on file sizes")
    after = tree_of(tmp_path / "run")
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= {"recipe.toml", "metrics.jsonl"}
    assert run(command("run", 2, "--resume")) == 0
    assert run(command("whole", 2)) == 0
    one, other = (load_net(None, tmp_path / name / "last.pt", device="cpu").state_dict() for name in ("run", "whole"))
    assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_an_svm_and_a_merge_that_find_no_room_leave_what_was_there(tmp_path: Path) -> None:
    dataset, values = clusters([20, 20], dim=2000)
    file = write_descriptors(tmp_path / "a.h5", dataset, values)
    out = tmp_path / "out"
    out.mkdir()
    model = str(out / "m.h5")
    assert run(["svm", str(file), "-o", model, "--C", "1", "--quiet"]) == 0
    former = tree_of(out)
    assert limited(5000, "svm", str(file), "-o", model, "--quiet") == f"{model}: cannot write: File too large"
    assert tree_of(out) == former
    assert run(["svm", str(file), "-o", model, "--quiet"]) == 0
    assert tree_of(out).keys() == former.keys() and tree_of(out) != former

    pictures = two_classes(tmp_path / "tree", 40)
    for shard in ("0/2", "1/2"):
        shards = ["extract", str(pictures), *NARROW, "--width", "0.0625", "-o", str(tmp_path / "s.h5")]
        assert run([*shards, "--shard", shard]) == 0
    parts = sorted(map(str, tmp_path.glob("s.shard-*")))
    merged = str(tmp_path / "merged" / "m.h5")
    assert limited(5000, "merge", *parts, "-o", merged) == f"{merged}: cannot write: File too large"
    assert tree_of(tmp_path / "merged") == {}
    assert run(["merge", *parts, "-o", merged, "--quiet"]) == 0
    assert len(read_descriptors(Path(merged)).done) == 40


MORE_ROOM = """
mkdir disk && mount -t tmpfs -o size=160k none disk || exit 77
"$@" -o disk/a.h5 2>&1; echo "code $?"
mount -o remount,size=20m disk || exit 77
"$@" -o disk/a.h5 --resume 2>&1; echo "code $?"
ls -A disk; cp disk/a.h5 .; umount disk
"""


def test_an_extraction_goes_on_once_there_is_room_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    pictures = two_classes(tmp_path / "tree", 64)
    words = ["extract", str(pictures), *NARROW, "--width", "0.25"]
    said = mounted(MORE_ROOM, tmp_path, sys.executable, "-m", "vggfeat", *words)
    assert said.splitlines() == [
        "vggfeat: disk/a.h5: cannot write (No space left on device): mend that, then --resume",
        "code 1",
        "disk/a.h5",
        "code 0",
        "a.h5",
    ]
    assert run([*words, "-o", str(tmp_path / "whole.h5")]) == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


READ_ONLY = """
mkdir disk && mount -t tmpfs -o ro,size=1m none disk || exit 77
"$@"; umount disk
"""
COMMANDS = """
import json, sys
from vggfeat.cli import run
for command in json.loads(sys.argv[1]):
    print(run(command), flush=True)  # among the lines of stderr
"""


def test_a_folder_that_cannot_be_written_is_one_line_whatever_the_command(tmp_path: Path) -> None:
    """A file system mounted for reading stops root too."""
    dataset, values = clusters([20, 20])
    file = str(write_descriptors(tmp_path / "a.h5", dataset, values))
    pictures = str(two_classes(tmp_path / "tree", 12))
    shard = ["extract", pictures, *NARROW, "--width", "0.0625"]
    assert run([*shard, "--shard", "0/1", "-o", str(tmp_path / "s.h5")]) == 0
    commands = [
        [*shard, "-o", "disk/e.h5"],
        ["merge", str(tmp_path / "s.shard-0-of-1.h5"), "-o", "disk/m.h5"],
        ["svm", file, "-o", "disk/model.h5", "--quiet"],
        [
            "train",
            "--net",
            "A",
            "--width",
            "0.015625",
            "--dataset",
            "folder",
            "--data",
            pictures,
            "--epochs",
            "1",
            "--batch-size",
            "4",
            "--quiet",
            "-o",
            "disk/run",
        ],
        ["export", file, "-o", "disk/a.npy"],
        ["download", "--dataset", "caltech256", "--data", "disk", "--quiet"],
    ]
    script = READ_ONLY.replace('"$@"', '"$@" 2>&1')
    said = mounted(script, tmp_path, sys.executable, "-c", COMMANDS, json.dumps(commands)).splitlines()
    assert len(said) == 12, said
    for name, line, code in zip(("e.h5", "m.h5", "model.h5", "", "a.npy", ""), said[::2], said[1::2], strict=True):
        assert code == "1", line
        assert line.startswith(f"vggfeat: disk/{name}"), line
        assert "Read-only file system" in line


def test_a_shard_that_vanishes_while_it_is_merged_is_named_and_nothing_written(tmp_path: Path) -> None:
    pictures = two_classes(tmp_path / "tree", 40)
    for shard in ("0/2", "1/2"):
        words = ["extract", str(pictures), *NARROW, "--width", "0.0625", "-o", str(tmp_path / "s.h5")]
        assert run([*words, "--shard", shard]) == 0
    first, second = sorted(tmp_path.glob("s.shard-*"))
    out = tmp_path / "out" / "m.h5"
    with pytest.raises(StoreError, match=f"^{second}: no such file$"):
        merge([first, second], out, progress=lambda *_: second.unlink(missing_ok=True))
    assert not out.parent.exists(), "the folder made for it is gone too"


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3 * PAGE), st.binary(min_size=1, max_size=50)),
        st.tuples(st.just("truncate"), st.integers(0, 3 * PAGE), st.just(b"")),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(OPERATIONS)
def test_a_sparse_file_in_memory_is_a_file(operations: list[tuple[str, int, bytes]]) -> None:
    ours, plain = SparseFile(), io.BytesIO()
    for kind, at, data in operations:
        for file in (ours, plain):
            if kind == "write":
                file.seek(at)
                file.write(data)
            elif file is ours or at <= len(plain.getbuffer()):
                file.truncate(at)
            else:
                plain.seek(0, 2)
                plain.write(bytes(at - plain.tell()))
    ours.seek(0)
    assert ours.read() == plain.getvalue()
    copy = io.BytesIO()
    ours.copy_to(copy)
    assert copy.getvalue().ljust(len(plain.getvalue()), b"\0") == plain.getvalue()


def test_hdf5_that_another_library_reads_comes_out_of_it(tmp_path: Path) -> None:
    dataset, values = clusters([3, 3], dim=4)
    with h5py.File(write_descriptors(tmp_path / "a.h5", dataset, values), "r") as file:
        assert file["descriptors"].shape == (6, 4)
        assert file["ids"].asstr()[0] == "class000/0000.jpg"
