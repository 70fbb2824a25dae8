"""Disks without room: one clear line, nothing wrong in what is there, and the run goes on later."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import clusters, write_descriptors

from vggfeat.model import read_model
from vggfeat.pooling import combine
from vggfeat.sparsefile import PAGE, SparseFile
from vggfeat.store import DONE, PENDING, read_descriptors

CHILD = """
import resource, sys
sys.path[:0] = [sys.argv[3]]
import numpy as np
from pathlib import Path
from making import clusters, write_descriptors
from vggfeat.errors import VggfeatError
from vggfeat.model import Model, write_model
from vggfeat.networks import VGG, glorot_
from vggfeat.pooling import Described
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
    words = [sys.executable, "-c", CHILD, kind, str(most), str(Path(__file__).parent)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


SMALL_DISK = """
mkdir disk && mount -t tmpfs -o size=260k none disk && cd disk || exit 77
"$@" 2>&1
cp --sparse=always a.h5 ..; cd .. && umount disk && rmdir disk
"""


def test_a_disk_that_fills_up_leaves_no_wrong_row_marked_done(tmp_path: Path) -> None:
    python = [sys.executable, "-c", CHILD, "descriptors", "-1", str(Path(__file__).parent)]
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", *python],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no unshare here to mount a small disk with")
    if done.returncode in (1, 77) and not (tmp_path / "a.h5").exists():
        pytest.skip(f"no small disk can be mounted here: {done.stderr}")
    assert done.stdout == "StoreError: a.h5: cannot write (No space left on device): mend that, then --resume\n"
    made = read_descriptors(tmp_path / "a.h5")
    _, values = clusters([60, 60], dim=1024)
    right = combine([values.astype(np.float32)], "stack")
    assert 0 < len(made.done) < 120
    assert np.array_equal(made.read(made.done), right[made.done])
    assert (made.status[len(made.done) :] != DONE).all()


def test_a_limit_on_file_sizes_stops_the_run_with_its_rows_still_to_do(tmp_path: Path) -> None:
    said = child("descriptors", 60_000, tmp_path)
    assert said == "StoreError: a.h5: cannot write (File too large): mend that, then --resume\n"
    assert (read_descriptors(tmp_path / "a.h5").status == PENDING).all()


def test_a_file_without_room_to_be_laid_out_does_not_appear(tmp_path: Path) -> None:
    assert child("layout", 60_000, tmp_path) == "VggfeatError: a.h5: cannot write: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", [0, 500, 3000, 7000])
def test_a_model_that_does_not_fit_leaves_the_former_one(tmp_path: Path, most: int) -> None:
    assert child("model", most, tmp_path) == "VggfeatError: m.h5: cannot write: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]
    assert read_model(tmp_path / "m.h5").coef.shape == (2, 999)


def test_a_checkpoint_that_does_not_fit_leaves_the_former_one(tmp_path: Path) -> None:
    said = child("checkpoint", 5000, tmp_path)
    assert said == "VggfeatError: n.pt: cannot write: no room on the disk, or a limit on file sizes\n"
    assert [path.name for path in tmp_path.iterdir()] == ["n.pt"]


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
