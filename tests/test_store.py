import errno
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from making import settings
from needs import need

from vggfeat.cli import run
from vggfeat.cli.advice import told
from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import StoreError, UsageError, VggfeatError
from vggfeat.stages.export import export
from vggfeat.stages.svm import svm
from vggfeat.store import DONE, FAILED, DescriptorWriter, as_descriptors, read_descriptors, schema
from vggfeat.store.locking import OutputLock
from vggfeat.store.pooling import Described, combine
from vggfeat.store.shards import Shard, cut
from vggfeat.store.writer import check_output
from vggfeat.system import locking as locks

N, DIMS, SCALES = 10, (3, 2), (256, 384)
BLOCKS = [range(4), range(4, 8), range(8, N)]
RNG = np.random.default_rng(0)
VALUES = RNG.random((N, sum(DIMS) * 2), dtype=np.float32)
KEPT = RNG.random((N, sum(DIMS) * 2), dtype=np.float32)

SETTINGS = settings(
    nets=[
        {"net": net, "weights": "oxford", "weights_sha256": digest, "width": 1.0, "preprocessing": {"mean": [1, 2, 3]}}
        for net, digest in (("D", "aa"), ("E", "bb"))
    ],
    scales=SCALES,
)
DATASET = Dataset("toy", tuple(Sample(f"i{i}", f"{i}.jpg", i % 3, subset="train") for i in range(N)), ("a", "b", "c"))


def writer(path, dataset=DATASET, settings=SETTINGS, **options):
    return DescriptorWriter(path, dataset, settings, dim=VALUES.shape[1], layer_dims=DIMS, **options)


def block(rows, failures=None):
    values, kept = VALUES[rows.start : rows.stop].copy(), KEPT[rows.start : rows.stop].copy()
    for row in failures or {}:
        values[row] = kept[row] = np.nan
    return Described(values, kept, failures or {})


def fill(path, blocks=None, **options):
    with writer(path, **options) as out:
        for rows in out.pending(BLOCKS)[:blocks]:
            out.write(rows, block(rows))
    return path


def refused(call) -> str:
    with pytest.raises(VggfeatError) as error:
        call()
    return told(error.value)


def test_what_is_written_is_read(tmp_path):
    made = read_descriptors(fill(tmp_path / "a.h5"))
    assert np.array_equal(made.read(), VALUES)
    assert np.array_equal(made.read([7, 2, 2]), VALUES[[7, 2, 2]])
    assert made.ids == [f"i{i}" for i in range(N)]
    assert made.labels.tolist() == [i % 3 for i in range(N)]
    assert made.subset == ["train"] * N
    assert made.class_names == ("a", "b", "c")
    assert made.dim == 10
    assert len(made.done) == len(made) == N
    expected = {
        "net": "D+E",
        "weights": "oxford+oxford",
        "weights_sha256": "aa+bb",
        "scales": SCALES,
        "aggregate": "stack",
        "flip": True,
        "dataset": "toy",
        "format_version": 1,
        "keep_scales": False,
    }
    assert {name: made.attributes[name] for name in expected} == expected


def test_multi_label_samples_keep_their_difficult_ones(tmp_path):
    samples = tuple(Sample(f"i{i}", "x", labels=(1, 0, -1)) for i in range(N))
    assert read_descriptors(fill(tmp_path / "a.h5", dataset=replace(DATASET, samples=samples))).labels[3].tolist() == [
        1,
        0,
        -1,
    ]


def test_unlabelled_samples_have_no_labels(tmp_path):
    samples = tuple(Sample(f"i{i}", "x") for i in range(N))
    assert read_descriptors(fill(tmp_path / "a.h5", dataset=replace(DATASET, samples=samples))).labels is None


def test_float16_halves_the_file_and_rounds(tmp_path):
    made = read_descriptors(fill(tmp_path / "a.h5", store="float16"))
    assert made.read().dtype == np.float32
    assert np.array_equal(made.read(), VALUES.astype(np.float16).astype(np.float32))


def test_a_value_that_float16_cannot_hold_fails_its_row(tmp_path):
    """Kept scales are a layer's own values: infinity used to stand in a row that counted as done."""
    with writer(tmp_path / "a.h5", store="float16", keep_scales=True, overwrite=True) as out:
        for rows in out.pending(BLOCKS):
            described = block(rows)
            if 1 in rows:
                described.scales[1 - rows.start, 2] = 70_000
            out.write(rows, described)
    made = read_descriptors(tmp_path / "a.h5")
    assert made.errors() == {"i1": "a value beyond 65,504, float16's largest: store it as float32"}
    assert np.isnan(made.read([1])).all()
    others = [row for row in range(N) if row != 1]
    assert made.done.tolist() == others
    assert np.isfinite(made.aggregated("average", rows=others)).all()


def test_a_scale_that_is_not_kept_need_not_fit_float16(tmp_path):
    with writer(tmp_path / "a.h5", store="float16") as out:
        for rows in out.pending(BLOCKS):
            described = block(rows)
            described.scales[:] = 70_000
            out.write(rows, described)
    assert len(read_descriptors(tmp_path / "a.h5").done) == N


def test_a_row_without_a_descriptor_has_failed_whatever_the_reason_says(tmp_path):
    with writer(tmp_path / "a.h5") as out:
        for rows in out.pending(BLOCKS):
            out.write(rows, block(rows, {0: ""} if 0 in rows else None))
    assert read_descriptors(tmp_path / "a.h5").status.tolist() == [FAILED] + [DONE] * (N - 1)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("locking", [None, False, True])
def test_a_file_that_the_program_itself_has_open_is_read(tmp_path, mode, locking):
    """HDF5 opens a file twice only with the same setting of locks: a notebook's own h5py.File was an error."""
    path = fill(tmp_path / "a.h5")
    with h5py.File(path, mode, locking=locking):
        assert np.array_equal(read_descriptors(path).read(), VALUES)
        locked = mode == "r+" and locking  # by the program's own lock, which looks like another's
        why = "another program: wait for it, or name another `output`" if locked else "this program: close it first"
        with pytest.raises(StoreError, match=f"^{path} is open in {why}$"):
            writer(path, resume=True)
    writer(path, resume=True).close()


class Asked:
    """Stands for a stored array and notes which columns are read."""

    def __init__(self, values):
        self.values, self.columns = values, set()

    def __getitem__(self, index):
        rows, columns = index
        self.columns |= set(range(self.values.shape[1])[columns])
        return self.values[rows, columns].copy()


@pytest.mark.parametrize("rows", [range(N), [0], [2, 3, 4], [1, 5], [0, 1, 2, 4, 6, 7, 9], []])
@pytest.mark.parametrize("slices", [[(0, 3)], [(3, 5), (5, 6)], [(0, 2), (7, 10)], [(6, 8), (2, 4)]])
def test_only_the_columns_asked_for_are_read(tmp_path, rows, slices):
    made = read_descriptors(fill(tmp_path / "a.h5"))
    made.status[4] = 2
    stored = Asked(KEPT)
    rows = np.array(rows, dtype=np.intp)
    parts = made._cut(stored, rows, [slice(*one) for one in slices])
    expected = KEPT[rows].copy()
    expected[rows == 4] = np.nan
    for part, (start, stop) in zip(parts, slices, strict=True):
        assert np.array_equal(part, expected[:, start:stop], equal_nan=True)
    assert stored.columns == {column for one in slices for column in range(*one)}


def test_scales_that_are_dropped_are_not_read(tmp_path, monkeypatch):
    made = read_descriptors(fill(tmp_path / "a.h5", keep_scales=True))
    asked = []
    cut = type(made)._cut

    def noted(self, stored, rows, columns):
        asked.extend(columns)
        return cut(self, stored, rows, columns)

    monkeypatch.setattr(type(made), "_cut", noted)
    made.aggregated("max", scales=(384,))
    assert asked == [slice(3, 6), slice(8, 10)], "of the nets' layers of 3 and 2 values, the second scale"


def test_kept_scales_can_be_aggregated_anew(tmp_path):
    made = read_descriptors(fill(tmp_path / "a.h5", keep_scales=True))
    parts = made.read_parts()
    assert [part.shape for part in parts] == [(N, 2, 3), (N, 2, 2)]
    assert np.array_equal(parts[0].reshape(N, -1), KEPT[:, :6])
    assert np.array_equal(made.aggregated("max", [4, 1]), combine([part[[4, 1]] for part in parts], "max"))


def test_kept_scales_that_are_not_asked_for_are_not_read(tmp_path, monkeypatch):
    made = read_descriptors(fill(tmp_path / "a.h5", keep_scales=True))
    parts, read = made.read_parts(), []
    original = h5py.Dataset.__getitem__

    def counting(self, at, *more, **named):
        values = original(self, at, *more, **named)
        read.append(values.size if self.name == "/scales" else 0)
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    for place, Q in enumerate(SCALES):
        for rows in ([4, 1], None):
            read.clear()
            wanted = [part[rows or slice(None), place : place + 1] for part in parts]
            assert np.array_equal(made.aggregated("stack", rows, (Q,)), combine(wanted, "stack"), equal_nan=True)
            assert sum(read) == KEPT.shape[1] // len(SCALES) * (len(rows) if rows else N)


def test_without_kept_scales_aggregating_anew_is_an_error(tmp_path):
    path = fill(tmp_path / "a.h5")
    assert refused(lambda: read_descriptors(path).read_parts()) == (
        f"{path} keeps no single scales: extract with --keep-scales"
    )


def test_names_that_are_no_utf8_survive(tmp_path):
    odd = [os.fsdecode(name) for name in (b"caf\xe9.jpg", "naïve 🎉.jpg".encode(), b"a b\nc.jpg")]
    samples = tuple(Sample(name, name) for name in odd + [str(i) for i in range(N - 3)])
    assert read_descriptors(fill(tmp_path / "a.h5", dataset=replace(DATASET, samples=samples))).ids[:3] == odd


def test_failed_rows_keep_their_place_and_reason_and_are_tried_again(tmp_path):
    path = tmp_path / "a.h5"
    with writer(path) as out:
        for rows in out.pending(BLOCKS):
            out.write(rows, block(rows, {1: "damaged: caf\xe9"} if rows.start == 4 else None))
    made = read_descriptors(path)
    assert made.errors() == {"i5": "damaged: caf\xe9"}
    assert made.status.tolist() == [1] * 5 + [2] + [1] * 4
    assert np.isnan(made.read([5])).all()
    assert np.array_equal(made.read(made.done), VALUES[made.done])
    with writer(path, resume=True) as out:
        assert out.pending(BLOCKS) == [range(4, 8)]
        out.write(range(4, 8), block(range(4, 8)))
    made = read_descriptors(path)
    assert made.errors() == {}
    assert np.array_equal(made.read(), VALUES)


def test_a_resumed_block_leaves_finished_rows_as_they_are(tmp_path):
    path = tmp_path / "a.h5"
    with writer(path) as out:
        out.write(range(4), block(range(4), {2: "lost"}))
    with writer(path, resume=True) as out:
        other = block(range(4))
        other.descriptors[:] = 9
        out.write(range(4), other)
    assert np.array_equal(read_descriptors(path).read(range(4)), [*VALUES[:2], np.full(10, 9), VALUES[3]])


def test_an_interrupted_file_reads_as_pending_and_resumes_to_the_same_bytes(tmp_path):
    whole, part = fill(tmp_path / "whole.h5"), fill(tmp_path / "part.h5", blocks=1)
    made = read_descriptors(part)
    assert made.status.tolist() == [1] * 4 + [0] * 6
    assert np.isnan(made.read()[4:]).all()
    fill(part, resume=True)
    assert part.read_bytes() == whole.read_bytes()


def test_an_existing_file_is_neither_lost_nor_mixed(tmp_path):
    path = fill(tmp_path / "a.h5")
    before = path.read_bytes()
    assert refused(lambda: writer(path)) == f"{path} exists: --resume goes on with it, --overwrite replaces it"
    folder = f"{tmp_path}: cannot write: it is a folder, name a file in it"
    assert [refused(lambda how=how: writer(tmp_path, **how)) for how in ({}, {"overwrite": True})] == [folder] * 2
    other = {**SETTINGS, "flip": False}
    assert refused(lambda: writer(path, settings=other, resume=True)) == (
        f"{path} was made with other settings (flip true there, false here): --overwrite replaces it, -o names another file"
    )
    nets = [SETTINGS["nets"][0], {**SETTINGS["nets"][1], "weights_sha256": "cc"}]
    assert '(net.weights_sha256 "bb" there, "cc" here)' in refused(
        lambda: writer(path, settings={**SETTINGS, "nets": nets}, resume=True)
    )
    renamed = (*DATASET.samples[:3], Sample("x", "x", 0), *DATASET.samples[4:])
    assert refused(lambda: writer(path, dataset=replace(DATASET, samples=renamed), resume=True)) == (
        f"{path} was made from another list: row 3 is 'i3' there, 'x' here"
    )
    assert refused(lambda: writer(path, dataset=replace(DATASET, samples=DATASET.samples[:-1]), resume=True)) == (
        f"{path} was made from another list: {N} rows there, {N - 1} here"
    )
    assert path.read_bytes() == before


def samples_with(row, **changes):
    return (*DATASET.samples[:row], replace(DATASET.samples[row], **changes), *DATASET.samples[row + 1 :])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "c", "b")}, "classes (class 1 is 'b' there, 'c' here)"),
        ({"class_names": ("a", "b", "c", "d")}, "classes (3 classes there, 4 here)"),
        ({"samples": samples_with(4, labels=2)}, "labels ('i4' is 'b' there, 'c' here)"),
        ({"samples": samples_with(4, labels=None)}, "labels (none here)"),
        (
            {"samples": tuple(replace(sample, labels=(1, 0, -1)) for sample in DATASET.samples)},
            "labels (one class an image there, one for each class here)",
        ),
        ({"samples": samples_with(7, subset="val")}, "subsets ('i7' is in 'train' there, 'val' here)"),
    ],
)
def test_a_list_that_was_annotated_anew_is_not_resumed(tmp_path, changes, message):
    path = fill(tmp_path / "a.h5", blocks=1)
    before = path.read_bytes()
    assert refused(lambda: writer(path, dataset=replace(DATASET, **changes), resume=True)) == (
        f"{path} was made with other {message}: --overwrite describes anew, -o names another file"
    )
    assert path.read_bytes() == before


def test_one_of_several_labels_that_changed_is_named(tmp_path):
    several = replace(DATASET, samples=tuple(replace(sample, labels=(1, 0, -1)) for sample in DATASET.samples))
    path = fill(tmp_path / "a.h5", dataset=several, blocks=1)
    corrected = list(several.samples)
    corrected[5] = replace(corrected[5], labels=(1, 0, 1))
    assert "other labels ('i5' is -1 for 'c' there, 1 for 'c' here)" in refused(
        lambda: writer(path, dataset=replace(DATASET, samples=tuple(corrected)), resume=True)
    )
    fill(path, dataset=several, resume=True)
    assert path.read_bytes() == fill(tmp_path / "whole.h5", dataset=several).read_bytes()


def test_a_list_without_labels_resumes_and_one_that_got_them_does_not(tmp_path):
    plain = replace(DATASET, samples=samples_with(0, labels=None))
    path = fill(tmp_path / "a.h5", dataset=plain, blocks=1)
    assert "other labels (none there)" in refused(lambda: writer(path, resume=True))
    fill(path, dataset=plain, resume=True)
    assert path.read_bytes() == fill(tmp_path / "whole.h5", dataset=plain).read_bytes()


def test_overwriting_replaces_the_file(tmp_path):
    path = fill(tmp_path / "a.h5", store="float16")
    fill(path, overwrite=True)
    assert np.array_equal(read_descriptors(path).read(), VALUES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    path = tmp_path / "a.h5"
    with writer(path) as out:
        out.write(range(4), block(range(4)))
        code = (
            "import sys; sys.path[:0] = sys.argv[2:]\n"
            "from test_store import *\n"
            "print(read_descriptors(sys.argv[1]).status.sum())\n"
            "for options in ({'resume': True}, {'overwrite': True}):\n"
            "    print(refused(lambda: writer(sys.argv[1], **options)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), os.path.dirname(__file__)],
            capture_output=True,
            text=True,
            check=True,
        )
    busy = (
        f"{path} is being written by process {os.getpid()} on {socket.gethostname()}: wait for it, or name another -o"
    )
    assert done.stdout.splitlines() == ["4", busy, busy]


def test_a_program_that_only_holds_hdf5s_own_lock_is_respected_too(tmp_path):
    path = fill(tmp_path / "a.h5")
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_store import *\n"
        "print(refused(lambda: writer(sys.argv[1], overwrite=True)))\n"
    )
    with h5py.File(path, "r+"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), os.path.dirname(__file__)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == f"{path} is being written by another process: wait for it, or name another -o\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes and replaces no open file")
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_goes_while_it_is_written_is_an_error(tmp_path, how):
    """What is written then lands in a file that nobody can open any more."""
    path = tmp_path / "a.h5"
    with writer(path) as out:
        out.write(range(2), block(range(2)))
        path.unlink()
        if how == "replaced":
            path.write_bytes(b"another program's")
        assert refused(lambda: out.write(range(2, 4), block(range(2, 4)))) == (
            f"{path} was removed or replaced while it was being written: begin it anew"
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if how == "removed" else ["a.h5"])


def test_a_lock_file_of_another_user_is_named(tmp_path, monkeypatch):
    lock = tmp_path / ".a.h5.lock"
    lock.touch()

    def opened(path, *args, _open=os.open):
        if path == lock:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return _open(path, *args)

    monkeypatch.setattr(os, "open", opened)
    assert refused(lambda: writer(tmp_path / "a.h5")) == (
        f"{lock}: Permission denied: remove this lock file if nothing writes a.h5"
    )


def test_folders_made_for_a_file_that_is_not_written_go_again(tmp_path):
    with OutputLock(tmp_path / "new" / "folder" / "a.h5"):
        assert (tmp_path / "new" / "folder").is_dir()
    assert list(tmp_path.iterdir()) == []
    with OutputLock(tmp_path / "new" / "a.h5"):
        (tmp_path / "new" / "a.h5").touch()
    assert (tmp_path / "new" / "a.h5").exists()


def without_locks(monkeypatch):
    """As on a file system of some clusters: neither we nor HDF5 can lock."""

    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def opened(path, mode, locking=None, _file=h5py.File):
        if locking:
            refused()
        return _file(path, mode, locking=locking)

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    monkeypatch.setattr(schema.h5py, "File", opened)


@pytest.mark.skipif(locks.fcntl is None, reason="no flock here")
def test_a_file_is_resumed_and_replaced_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    path = fill(tmp_path / "a.h5")
    whole = path.read_bytes()
    fill(path, resume=True)
    fill(path, overwrite=True)
    assert path.read_bytes() == whole


@pytest.mark.skipif(locks.fcntl is None, reason="no flock here")
def test_a_download_works_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    with locks.locked(tmp_path / "a.part", lambda: False) as stream:
        stream.write(b"content")
    assert (tmp_path / "a.part").read_bytes() == b"content"
    with locks.locked(tmp_path / "a.part", lambda: True) as stream:
        assert stream is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_short_is_told_and_overwrite_replaces_it(tmp_path):
    """HDF5's words for it, "sblock->base_addr", were taken for a lock: wait for the other process."""
    path = fill(tmp_path / "a.h5")
    sound = path.read_bytes()
    words = f"{path}: damaged file (it is cut short, as by an interrupted copy)"
    for length in (len(sound) - 1, len(sound) // 2):
        path.write_bytes(sound[:length])
        assert refused(lambda: read_descriptors(path)) == words
        assert refused(lambda: writer(path, resume=True)) == f"{words}; --overwrite replaces it"
    fill(path, overwrite=True)
    assert np.array_equal(read_descriptors(path).read(), VALUES)


@pytest.mark.parametrize("name", ["weights_sha256", "aggregate", "settings", "layer_dims", "flip"])
def test_an_attribute_that_is_missing_is_named(tmp_path, name):
    path = fill(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file.attrs[name]
    assert refused(lambda: read_descriptors(path)) == f"{path}: damaged descriptor file (no {name!r})"
    with pytest.raises(VggfeatError) as caught:
        svm([path], C=1)
    assert told(caught.value) == f"{path}: damaged descriptor file (no {name!r})"


def test_data_that_are_missing_are_named(tmp_path):
    path = fill(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["ids"]
    assert refused(lambda: read_descriptors(path)) == f"{path}: damaged descriptor file (no 'ids')"


def test_what_a_dead_writer_left_behind_stops_nobody_and_goes(tmp_path):
    path = tmp_path / "a.h5"
    lock, part, other = tmp_path / ".a.h5.lock", tmp_path / ".a.h5.abcd1234.part", tmp_path / ".a.h5.x.abcd1234.part"
    lock.write_text("process 1 on elsewhere")
    part.touch()
    other.touch()  # of an output named a.h5.x
    with writer(path):
        assert lock.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_two_writers_of_a_new_file_never_both_make_it(tmp_path):
    """Before the file exists HDF5 has nothing to lock."""
    with OutputLock(tmp_path / "a.h5"):
        code = (
            "import sys; sys.path[:0] = sys.argv[2:]\n"
            "from test_store import *\n"
            "print(refused(lambda: writer(sys.argv[1])))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.h5"), os.path.dirname(__file__)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"is being written by process {os.getpid()} on " in done.stdout
        assert [entry.name for entry in tmp_path.iterdir()] == [".a.h5.lock"]
    assert list(tmp_path.iterdir()) == []


def test_blocks_are_the_rows_in_order(tmp_path):
    path = tmp_path / "a.h5"
    with writer(path) as out:
        out.write(range(4), block(range(4), {1: "lost"}))
    blocks = list(read_descriptors(path).blocks(3))
    assert [len(values) for values in blocks] == [3, 3, 3, 1]
    assert np.array_equal(np.concatenate(blocks), read_descriptors(path).read(), equal_nan=True)
    assert np.isnan(blocks[0][1]).all()


def test_an_error_of_who_takes_the_blocks_is_no_damage_of_the_file(tmp_path):
    made = read_descriptors(fill(tmp_path / "a.h5"))
    with pytest.raises(OSError, match=r"^mine$"):
        for _ in made.blocks(4):
            raise OSError("mine")


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_size_of_blocks_that_cannot_be_is_no_damage_of_the_file(tmp_path, size):
    fill(tmp_path / "f.h5")
    made = read_descriptors(tmp_path / "f.h5")
    with pytest.raises(UsageError) as caught:
        next(made.blocks(size))
    assert str(caught.value) == f"`size` {size} is not a whole number of 1 or more"
    with pytest.raises(UsageError) as caught:
        next(made.blocks(1, -1))
    assert str(caught.value) == "`start` -1 is not a whole number of 0 or more"


def test_descriptors_that_do_not_fit_into_memory_are_no_damage_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    fill(path, keep_scales=True)
    made = read_descriptors(path)

    def full(self, *_):
        raise MemoryError("Unable to allocate 30. GiB")

    monkeypatch.setattr(type(made), "_cut", full)
    for read in (made.read, made.read_parts, lambda: next(made.blocks())):
        assert refused(read) == (
            f"{path}: too large to read at once (Unable to allocate 30. GiB): take fewer rows at a time, as "
            "Descriptors.blocks does"
        )


def test_an_opened_file_is_read_from_another_working_directory_too(tmp_path, monkeypatch):
    fill(tmp_path / "f.h5", keep_scales=True)
    monkeypatch.chdir(tmp_path)
    made = read_descriptors("f.h5")
    values = made.read()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert made.path == Path("f.h5")
    assert np.array_equal(made.read(), values, equal_nan=True)
    assert np.array_equal(next(made.blocks()), values, equal_nan=True)
    assert len(made.read_parts()[0]) == len(made.errors() | dict.fromkeys(made.ids)) == len(made)
    assert len(as_descriptors(made)) == len(made)


def test_opened_files_are_compared_and_hashed_by_identity(tmp_path):
    fill(tmp_path / "f.h5")
    one, other = read_descriptors(tmp_path / "f.h5"), read_descriptors(tmp_path / "f.h5")
    assert one == one != other
    assert len({one, one, other}) == 2


def readers(made):
    return (made.read, made.read_parts, lambda rows: made.aggregated("average", rows))


def test_a_mask_of_rows_means_the_rows_that_it_marks(tmp_path):
    made = read_descriptors(fill(tmp_path / "a.h5", keep_scales=True))
    mask = made.labels == 1
    for read in readers(made):
        numbered = read(np.flatnonzero(mask))
        for one in (mask, mask.tolist()):
            assert all(map(np.array_equal, read(one), numbered))
    assert made.read(np.zeros(N, dtype=bool)).shape == made.read([]).shape == (0, 10)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([True, False], f"a mask of rows has shape (2,), {{path}} has {N} rows"),
        (np.ones((N, 1), dtype=bool), f"a mask of rows has shape ({N}, 1), {{path}} has {N} rows"),
        ([0, N, 99], f"row {N} is out of range: {{path}} has {N} rows, counted from 0"),
        ([3, -1], f"row -1 is out of range: {{path}} has {N} rows, counted from 0"),
        ([0.5], "rows must be a list of row numbers, or a mask of all rows"),
        (3, "rows must be a list of row numbers, or a mask of all rows"),
    ],
)
def test_rows_that_a_file_does_not_have_are_refused_before_it_is_opened(tmp_path, rows, message):
    path = fill(tmp_path / "a.h5", keep_scales=True)
    made = read_descriptors(path)
    path.unlink()
    for read in readers(made):
        with pytest.raises(UsageError) as error:
            read(rows)
        assert str(error.value) == message.format(path=path)


def test_choosing_no_layer_is_refused(tmp_path):
    path = fill(tmp_path / "a.h5")
    with pytest.raises(UsageError) as error:
        read_descriptors(path).choose([])
    assert str(error.value) == f"no layer is named; {path} has fc7"


def test_files_that_are_none_are_told_apart(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    h5py.File(tmp_path / "other.h5", "w").close()
    for name, reason in {
        "missing.h5": "{}: no such file",
        "text.h5": "{} is not a descriptor file (not HDF5)",
        "other.h5": "{} is not a descriptor file of vggfeat's",
    }.items():
        assert refused(lambda name=name: read_descriptors(tmp_path / name)) == reason.format(tmp_path / name)
    assert refused(lambda: read_descriptors(tmp_path)) == (
        f"{tmp_path} is a folder: name a file in it, such as {tmp_path / 'other.h5'}"
    )


def test_a_newer_format_is_refused_with_advice(tmp_path):
    path = fill(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
    assert refused(lambda: read_descriptors(path)) == (
        f"{path} has format version 2, this vggfeat reads up to 1: update it"
    )


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_data_outside_of_the_file_is_never_read(tmp_path, kind):
    path, secret = fill(tmp_path / "a.h5"), tmp_path / "secret"
    secret.write_bytes(b"s" * 400)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["descriptors"] = VALUES
    with h5py.File(path, "r+") as file:
        del file["descriptors"]
        if kind == "external link":
            file["descriptors"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "descriptors")
        elif kind == "soft link":
            file["descriptors"] = h5py.SoftLink("/ids")
        elif kind == "external storage":
            file.create_dataset("descriptors", (N, 10), "f4", external=[(str(secret), 0, 400)])
        else:
            layout = h5py.VirtualLayout((N, 10), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "descriptors", (N, 10))
            file.create_virtual_dataset("descriptors", layout)
    assert refused(lambda: read_descriptors(path)) == f"{path}: 'descriptors' points outside of the file, refused"


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VggfeatError) as error:
        writer(tmp_path / "file" / "a.h5")
    assert str(error.value) == f"{tmp_path / 'file' / 'a.h5'}: cannot write here: File exists"


def test_a_killed_writer_leaves_a_file_that_resumes_to_the_same_bytes(tmp_path):
    need("signal.SIGKILL")
    whole = fill(tmp_path / "whole.h5")
    code = (
        "import os, signal, sys; sys.path[:0] = sys.argv[3:]\n"
        "from test_store import *\n"
        "stop = int(sys.argv[2])\n"
        "with writer(sys.argv[1]) as out:\n"
        "    for number, rows in enumerate(out.pending(BLOCKS)):\n"
        "        if number == stop: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        out.write(rows, block(rows))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for stop in range(4):
        path = tmp_path / f"{stop}.h5"
        killed = subprocess.run([sys.executable, "-c", code, str(path), str(stop), os.path.dirname(__file__)])
        assert killed.returncode == -9
        assert read_descriptors(path).status.tolist() == ([1] * 4 * stop + [0] * N)[:N]
        fill(path, resume=True)
        assert path.read_bytes() == whole.read_bytes()


def test_a_shard_alone_is_exported_with_a_warning(tmp_path, caplog):
    """Its rows are not those of the whole list."""
    shard = Shard(0, 2)
    part, portion = cut(DATASET, shard, BLOCKS)
    path = shard.path(tmp_path / "a.h5")
    with writer(path, part, portion=portion) as opened:
        opened.write(BLOCKS[0], block(BLOCKS[0]))
    export(path, tmp_path / "a.csv")
    assert f"{path} is shard 0/2 of a list of 10: its rows alone count" in caplog.text


def test_another_kind_of_file_of_ours_is_called_by_its_kind(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["format"] = "vggfeat-model"
    assert refused(lambda: read_descriptors(tmp_path / "m.h5")) == (
        f"{tmp_path / 'm.h5'} is a model, not a descriptor file"
    )


def test_a_file_that_may_not_be_read_is_named_with_the_reason(tmp_path, monkeypatch, capsys):
    """h5py's own message is a line of its C library; root, who may read every file, needs a stand-in."""
    path = fill(tmp_path / "a.h5")

    def denied(*_: object, **__: object) -> None:
        raise OSError("Unable to determine if file is accessible as hdf5 (unable to open file)")

    monkeypatch.setattr(h5py, "is_hdf5", denied)
    real = open

    def closed(name, *args, **options):
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(name, *args, **options)

    monkeypatch.setattr("builtins.open", closed)
    for command in ("info", "predict"):
        assert run([command, str(path), *([str(path)] if command == "predict" else [])]) == 1
        assert capsys.readouterr().err == f"vggfeat: {path}: Permission denied\n"


@pytest.mark.parametrize("change", ["order", "labels", "settings"])
def test_an_opened_file_that_was_replaced_is_told_and_not_mixed_with_it(tmp_path, change):
    """Its new rows would be read under the old ids and labels."""
    path = fill(tmp_path / "a.h5")
    made = read_descriptors(path)
    fill(path, overwrite=True)
    assert np.array_equal(made.read(), VALUES), "the same images, labels and settings again"
    samples = DATASET.samples
    changed = {
        "order": {"dataset": replace(DATASET, samples=samples[::-1])},
        "labels": {"dataset": replace(DATASET, samples=(replace(samples[0], labels=2), *samples[1:]))},
        "settings": {"settings": SETTINGS | {"flip": not SETTINGS["flip"]}},
    }
    fill(path, overwrite=True, **changed[change])
    for reading in (made.read, lambda: made.read([0]), lambda: next(made.blocks()), made.errors):
        assert refused(reading) == f"{path} has been replaced since it was opened: open it again"


def test_a_file_that_is_still_filled_is_the_same_file(tmp_path):
    path = fill(tmp_path / "a.h5", blocks=1)
    made = read_descriptors(path)
    fill(path, resume=True)
    assert np.isnan(made.read()).any(), "as it was opened"
    assert np.array_equal(read_descriptors(path).read(), VALUES)


def test_an_unknown_aggregation_or_scale_is_refused(tmp_path):
    made = read_descriptors(fill(tmp_path / "a.h5", keep_scales=True))
    for call, message in (
        (lambda: made.aggregated("mean"), "no aggregation 'mean'; valid: stack, average, max"),
        (lambda: svm(made, C=1.0, aggregate="mean"), "no aggregation 'mean'; valid: stack, average, max"),
        (lambda: made.aggregated("max", scales=[256, 999]), f"{made.path} has no scale 999; it has 256, 384"),
        (lambda: made.aggregated("max", scales=[]), "no scales: name at least one smallest side, such as 256"),
    ):
        assert refused(call) == message
    assert np.array_equal(made.aggregated("max", scales=256), made.aggregated("max", scales=[256]))


@pytest.mark.parametrize("name", ["picture.h5", "model.h5"])
def test_overwriting_replaces_no_file_of_another_kind(tmp_path, name):
    path = tmp_path / name
    if name == "model.h5":
        svm(fill(tmp_path / "a.h5"), C=1.0, output=path)
    else:
        path.write_bytes(b"\xff\xd8 a picture")
    before = path.read_bytes()
    message = f"{path} exists and is not a descriptor file, so it is not replaced: name another file"
    assert refused(lambda: check_output(path, overwrite=True)) == message
    assert refused(lambda: fill(path, overwrite=True)) == message
    assert path.read_bytes() == before
