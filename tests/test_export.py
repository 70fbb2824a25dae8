"""Descriptor files for other tools."""

import csv
import errno
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from making import write_descriptors
from scipy.io import loadmat

from vggfeat.cli import run
from vggfeat.cli.advice import told
from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import StoreError, UsageError, VggfeatError
from vggfeat.stages.export import export
from vggfeat.store import read_descriptors

N, DIM = 600, 5
VALUES = np.random.default_rng(0).standard_normal((N, 1, DIM))
ODD = 'caf\udce9, "1".jpg'
DATASET = Dataset(
    "toy",
    tuple(Sample(ODD if i == 1 else f"i{i}", "x", i % 2, subset="train") for i in range(N)),
    ("cats, big", "dogs"),
)


@pytest.fixture
def made(tmp_path):
    """600 rows, more than one block; row 2 failed, the last still to do."""
    return write_descriptors(tmp_path / "feats.h5", DATASET, VALUES, failed=[2], pending=[N - 1])


def table(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.reader(stream))


def test_a_matrix_and_its_names(made, tmp_path):
    done = export(made, tmp_path / "feats.npy")
    assert (done.path, done.names, done.rows, done.missing) == (tmp_path / "feats.npy", tmp_path / "feats.csv", N, 2)
    matrix = np.load(tmp_path / "feats.npy")
    assert (matrix.dtype, matrix.shape, matrix.flags.c_contiguous) == (np.float32, (N, DIM), True)
    assert np.array_equal(matrix, read_descriptors(made).read(), equal_nan=True)
    assert np.flatnonzero(np.isnan(matrix).any(axis=1)).tolist() == [2, N - 1]
    rows = table(tmp_path / "feats.csv")
    assert rows[:4] == [
        ["id", "label", "subset", "status"],
        ["i0", "cats, big", "train", "done"],
        [ODD, "dogs", "train", "done"],
        ["i2", "cats, big", "train", "failed"],
    ]
    assert rows[-1] == [f"i{N - 1}", "dogs", "train", "pending"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["feats.csv", "feats.h5", "feats.npy"]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".mat"])
def test_an_error_of_the_callers_progress_is_not_one_of_writing(made, tmp_path, suffix):
    lost = BrokenPipeError(errno.EPIPE, "the display has gone")

    def progress(done, total, failed):
        raise lost

    with pytest.raises(BrokenPipeError) as caught:
        export(made, tmp_path / f"x{suffix}", progress=progress)
    assert caught.value is lost
    assert [entry.name for entry in tmp_path.iterdir()] == ["feats.h5"]


def test_csv_has_names_and_values_that_float32_survives(made, tmp_path):
    done = export(made, tmp_path / "out.csv")
    assert (done.names, done.missing) == (None, 2)
    rows = table(tmp_path / "out.csv")
    assert rows[0] == ["id", "label", "subset", "status", "f0", "f1", "f2", "f3", "f4"]
    assert [row[0] for row in rows[1:]] == [sample.id for sample in DATASET.samples]
    assert rows[3] == ["i2", "cats, big", "train", "failed", "", "", "", "", ""]
    values = np.array([[float(x) if x else np.nan for x in row[4:]] for row in rows[1:]]).astype(np.float32)
    assert np.array_equal(values, read_descriptors(made).read(), equal_nan=True)


def test_several_labels_are_columns_and_no_labels_none(tmp_path):
    multi = Dataset("toy", (Sample("a", "x", (1, 0)), Sample("b", "x", (-1, 1))), ("car", "dog"))
    export(write_descriptors(tmp_path / "m.h5", multi, VALUES[:2]), tmp_path / "m.npy")
    assert table(tmp_path / "m.csv") == [
        ["id", "label.car", "label.dog", "subset", "status"],
        ["a", "1", "0", "", "done"],
        ["b", "-1", "1", "", "done"],
    ]
    plain = Dataset("images", (Sample("a", "x"),))
    export(write_descriptors(tmp_path / "p.h5", plain, VALUES[:1]), tmp_path / "p.npy")
    assert table(tmp_path / "p.csv") == [["id", "subset", "status"], ["a", "", "done"]]


def test_nothing_is_replaced_unasked(made, tmp_path):
    (tmp_path / "feats.csv").write_text("mine")
    with pytest.raises(StoreError) as error:
        export(made, tmp_path / "feats.npy")
    assert told(error.value) == f"{tmp_path / 'feats.csv'} exists: --overwrite replaces it, -o names another file"
    assert not (tmp_path / "feats.npy").exists()
    export(made, tmp_path / "feats.npy", overwrite=True)
    assert len(table(tmp_path / "feats.csv")) == N + 1


def test_an_interrupted_export_leaves_the_former_matrix_and_its_names(made, tmp_path):
    """A new CSV beside an old matrix would name wrong rows."""
    former = write_descriptors(tmp_path / "former.h5", replace(DATASET, samples=DATASET.samples[:3]), VALUES[:3])
    export(former, tmp_path / "feats.npy")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(done, *_):
        if done > 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(made, tmp_path / "feats.npy", overwrite=True, progress=stop)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_names_that_cannot_be_written_leave_the_former_matrix(made, tmp_path, monkeypatch):
    export(made, tmp_path / "feats.npy")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vggfeat.stages.export._csv_line", full)
    with pytest.raises(VggfeatError) as error:
        export(made, tmp_path / "feats.npy", overwrite=True)
    assert str(error.value) == f"{tmp_path / 'feats.csv'}: cannot write: No space left on device"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_suffix_is_refused(made, tmp_path):
    with pytest.raises(UsageError) as error:
        export(made, tmp_path / "feats.tsv")
    assert str(error.value) == (
        f"{tmp_path / 'feats.tsv'}: the suffix says what to write: .npy, .npz, .csv, .mat, .parquet"
    )


def test_the_command_says_what_is_missing(made, tmp_path, capsys):
    assert run(["export", str(made), "-o", str(tmp_path / "feats.npy")]) == 3
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'feats.npy'}\n"
    assert f"ids and labels: {tmp_path / 'feats.csv'}\n" in captured.err
    assert "2 of 600 rows have no descriptor (failed or pending: see status)\n" in captured.err
    whole = write_descriptors(tmp_path / "whole.h5", DATASET, VALUES)
    assert run(["export", str(whole), "-o", str(tmp_path / "whole.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(tmp_path / "whole.csv"),
        "names": None,
        "rows": N,
        "missing": 0,
    }


def read_arrays(path):
    """Name -> array of an .npz or .mat file, text as lists of strings."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    found = loadmat(path, chars_as_strings=True)
    texts = {
        name: [str(one.item()) if one.size else "" for one in found[name].ravel()] for name in TEXTS if name in found
    }
    return {name: value for name, value in found.items() if not name.startswith("__")} | texts


TEXTS = ("ids", "subset", "status", "errors", "class_names")


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_arrays_hold_ids_labels_and_failures(made, tmp_path, suffix):
    done = export(made, tmp_path / f"feats{suffix}")
    assert (done.names, done.rows, done.missing) == (None, N, 2)
    found = read_arrays(tmp_path / f"feats{suffix}")
    held = read_descriptors(made)
    assert found["descriptors"].dtype == np.float32
    assert np.array_equal(found["descriptors"], held.read(), equal_nan=True)
    odd = ODD if suffix == ".npz" else ODD.replace("\udce9", "\\udce9")
    assert list(found["ids"]) == ["i0", odd, *held.ids[2:]]
    assert np.array_equal(found["labels"].ravel(), held.labels + (suffix == ".mat")), "MATLAB counts from 1"
    assert list(found["class_names"]) == ["cats, big", "dogs"]
    assert (found["status"][2], found["errors"][2], found["errors"][3]) == ("failed", "cannot be read", "")
    assert (found["status"][0], found["status"][-1], found["subset"][0]) == ("done", "pending", "train")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["feats.h5", f"feats{suffix}"])


def test_parquet_of_an_older_pyarrow_says_what_missing_rows_need(made, tmp_path, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def refusing(self, table):
        raise pyarrow.ArrowNotImplementedError("Lists with non-zero length null components are not supported")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", refusing)
    with pytest.raises(StoreError) as raised:
        export(made, tmp_path / "feats.parquet")
    assert str(raised.value) == (
        f"{tmp_path / 'feats.parquet'}: rows without a descriptor need pyarrow 26 or later in a Parquet file: "
        "pip install -U pyarrow, or export to .npz"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["feats.h5"]


def test_parquet_holds_a_row_an_image(made, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    if int(pytest.importorskip("pyarrow").__version__.split(".")[0]) < 26:
        pytest.skip("Parquet files with missing rows need pyarrow 26")
    export(made, tmp_path / "feats.parquet")
    table, held = parquet.read_table(tmp_path / "feats.parquet"), read_descriptors(made)
    assert table.column_names == ["id", "label", "subset", "status", "error", "descriptor"]
    assert table["id"].to_pylist() == ["i0", ODD.replace("\udce9", "\\udce9"), *held.ids[2:]]
    assert table["label"].to_pylist() == [held.class_names[label] for label in held.labels]
    assert table["error"].to_pylist() == [None, None, "cannot be read"] + [None] * (N - 3)
    vectors = table["descriptor"].to_pylist()
    assert [row for row, vector in enumerate(vectors) if vector is None] == [2, N - 1]
    assert np.array_equal(
        np.array([vector or [np.nan] * DIM for vector in vectors], np.float32), held.read(), equal_nan=True
    )


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".parquet"])
def test_the_other_kinds_of_labels_come_through(tmp_path, suffix):
    multi = Dataset("toy", (Sample("a", "x", (1, 0)), Sample("b", "x", (-1, 1))), ("car", "dog"))
    export(write_descriptors(tmp_path / "m.h5", multi, VALUES[:2]), tmp_path / f"m{suffix}")
    plain = Dataset("images", (Sample("a", "x"),))
    export(write_descriptors(tmp_path / "p.h5", plain, VALUES[:1]), tmp_path / f"p{suffix}")
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(tmp_path / "m.parquet").drop(["descriptor", "error"]).to_pylist() == [
            {"id": "a", "label.car": 1, "label.dog": 0, "subset": "", "status": "done"},
            {"id": "b", "label.car": -1, "label.dog": 1, "subset": "", "status": "done"},
        ]
        assert parquet.read_schema(tmp_path / "p.parquet").names == ["id", "subset", "status", "error", "descriptor"]
        return
    assert read_arrays(tmp_path / f"m{suffix}")["labels"].tolist() == [[1, 0], [-1, 1]]
    assert set(read_arrays(tmp_path / f"p{suffix}")) == {"descriptors", "ids", "subset", "status", "errors"}


def test_what_is_missing_or_too_large_is_said(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"^\.parquet needs the package pyarrow: pip install 'vggfeat\[parquet\]'$"):
        export(made, tmp_path / "feats.parquet")
    monkeypatch.setattr("vggfeat.stages.export.MOST_MAT", 4 * N * DIM - 1)
    with pytest.raises(StoreError) as error:
        export(made, tmp_path / "feats.mat")
    assert str(error.value) == f"{tmp_path}/feats.mat: 600 x 5 values are too large for MATLAB's format: write .npy"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["feats.h5"]


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b"])
def test_an_id_with_a_line_end_is_one_field_for_every_reader(tmp_path, name):
    """csv of Python 3.12 and older leaves a carriage return unquoted, and readers take it for the end of the line."""
    samples = tuple(Sample(name if i == 1 else f"i{i}", "x", i % 2) for i in range(4))
    path = write_descriptors(tmp_path / "d.h5", Dataset("toy", samples, ("a", "b")), np.ones((4, 1, 3)))
    export(path, tmp_path / "d.csv")
    with (tmp_path / "d.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert [row[0] for row in rows] == ["id", "i0", name, "i2", "i3"]
