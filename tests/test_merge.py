"""Shards of a list, and the file that they become."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from making import settings as recorded
from needs import need

from vggfeat.classifiers.protocols.fusion import open_features
from vggfeat.cli import run
from vggfeat.cli.advice import told
from vggfeat.cli.inputs import shard_of
from vggfeat.datasets import Dataset, Sample
from vggfeat.errors import StoreError, UsageError, VggfeatError
from vggfeat.stages.info import info
from vggfeat.stages.merge import merge
from vggfeat.stages.svm import find_descriptors
from vggfeat.store import DescriptorWriter, read_descriptors
from vggfeat.store.pooling import Described
from vggfeat.store.rows import RowFile
from vggfeat.store.shards import Shard, cut, is_shard_name, whole_path
from vggfeat.system.launch import launched

N, DIM = 75, 6
RNG = np.random.default_rng(0)
VALUES, KEPT = RNG.random((N, DIM), dtype=np.float32), RNG.random((N, DIM), dtype=np.float32)
DATASET = Dataset(
    "toy", tuple(Sample(f"caf\udce9/{i}", f"{i}.jpg", i % 2, subset="train") for i in range(N)), ("a", "b")
)
BLOCKS = [range(start, min(start + 16, N)) for start in range(0, N, 16)]


def write(path, dataset=DATASET, shard=None, failed=(), pending=(), settings=None, **options):
    """A descriptor file of VALUES, or a shard of it, written block by block as `extract` does."""
    portion, first = None, 0
    if shard is not None:
        path = shard.path(path)
        dataset, portion = cut(dataset, shard, BLOCKS)
        first = portion.first_row
    with DescriptorWriter(
        path, dataset, settings or recorded(), dim=DIM, layer_dims=[DIM], portion=portion, **options
    ) as out:
        for row in range(len(dataset.samples)):
            if first + row not in pending:
                failures = {0: f"lost {first + row}"} if first + row in failed else {}
                values = np.full((1, DIM), np.nan, np.float32) if failures else VALUES[first + row][None]
                out.write(range(row, row + 1), Described(values, KEPT[first + row][None], failures))
    return path


def shards(path, count, **options):
    return [write(path, shard=Shard(i, count), **options) for i in range(count)]


def refused(call, kind=StoreError) -> str:
    with pytest.raises(kind) as error:
        call()
    return told(error.value)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("options", [{}, {"keep_scales": True, "store": "float16"}])
def test_merged_shards_are_the_file_of_one_process(tmp_path, count, options):
    """Byte for byte, failed rows included, whatever their order; with 16 shards of 5 blocks most are empty."""
    whole = write(tmp_path / "whole.h5", failed=(3, 70), **options)
    parts = shards(tmp_path / "a.h5", count, failed=(3, 70), **options)
    assert merge(parts[::-1], tmp_path / "merged.h5") == tmp_path / "merged.h5"
    assert (tmp_path / "merged.h5").read_bytes() == whole.read_bytes()
    assert merge([read_descriptors(part) for part in parts], tmp_path / "again.h5").read_bytes() == whole.read_bytes()
    merged = read_descriptors(tmp_path / "merged.h5")
    assert merged.errors() == {"caf\udce9/3": "lost 3", "caf\udce9/70": "lost 70"}
    assert merged.portion is None


@pytest.mark.parametrize("labels", [None, (1, 0, -1)])
def test_unlabelled_and_multi_label_shards_merge_too(tmp_path, labels):
    dataset = replace(
        DATASET, samples=tuple(replace(s, labels=labels) for s in DATASET.samples), class_names=("a", "b", "c")
    )
    whole = write(tmp_path / "whole.h5", dataset)
    merge(shards(tmp_path / "a.h5", 3, dataset=dataset), tmp_path / "merged.h5")
    assert (tmp_path / "merged.h5").read_bytes() == whole.read_bytes()


def test_one_image_without_a_label_leaves_every_shard_without_labels(tmp_path):
    dataset = replace(DATASET, samples=(*DATASET.samples[:-1], replace(DATASET.samples[-1], labels=None)))
    parts = shards(tmp_path / "a.h5", 2, dataset=dataset)
    assert [read_descriptors(part).labels for part in parts] == [None, None]
    merge(parts, tmp_path / "merged.h5")
    assert (tmp_path / "merged.h5").read_bytes() == write(tmp_path / "whole.h5", dataset).read_bytes()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 40])
def test_shards_are_whole_blocks_that_follow_each_other(count):
    rows = [Shard(i, count).rows(BLOCKS) for i in range(count)]
    assert [row for part in rows for row in part] == list(range(N))
    assert {part.start for part in rows if part} <= {block.start for block in BLOCKS}
    sizes = [len(part) for part in rows]
    assert max(sizes) - min(sizes) <= 2 * 16


def test_names_of_shards(tmp_path):
    path = Shard(3, 16).path(tmp_path / "a.b-D.h5")
    assert path == tmp_path / "a.b-D.shard-03-of-16.h5"
    assert is_shard_name(path.name)
    assert not is_shard_name("shard-03-of-16-D.h5")
    assert whole_path(path) == tmp_path / "a.b-D.h5"
    assert Shard(0, 1000).path(tmp_path / "x").name == "x.shard-0000-of-1000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("16/16", "shard 16/16: shards count from 0, so of 16 the last is 15/16"),
        ("3", "shard '3': expected a number and how many there are, such as 3/16"),
        ("-1/4", "shard '-1/4': expected a number and how many there are, such as 3/16"),
        ("0/0", "shard '0/0': expected a number and how many there are, such as 3/16"),
    ],
)
def test_a_shard_that_makes_no_sense_is_refused(text, message):
    assert refused(lambda: Shard.parse(text), UsageError) == message


def test_a_missing_shard_is_named_with_the_command_that_makes_it(tmp_path):
    parts = shards(tmp_path / "a.h5", 4)
    there = refused(lambda: merge([parts[0], parts[2], parts[3]], tmp_path / "m.h5"))
    assert there == f"shard 1/4 is missing, but {parts[1]} is there: name all shards"
    parts[1].rename(tmp_path / "kept")
    message = refused(lambda: merge([parts[0], parts[2], parts[3]], tmp_path / "m.h5"))
    assert message == (
        "shard 1/4 is missing: make it with vggfeat extract --net D --weights oxford --scales 256 --aggregate stack "
        f"--no-exif --precision fp32 -o {tmp_path / 'a.h5'} --shard 1/4 --dataset toy"
    )
    for part in (parts[0], parts[2], parts[3]):
        part.unlink()
    (tmp_path / "kept").rename(parts[1])
    message = refused(lambda: merge(parts[1:2], tmp_path / "m.h5"))
    assert message.startswith("3 shards are missing (0/4, 2/4, 3/4): make the first with vggfeat extract ")
    assert message.endswith(
        f"--shard 0/4 --dataset toy; 'vggfeat info --shards {tmp_path}/a.h5' has a command for each"
    )
    assert list(tmp_path.iterdir()) == [parts[1]], "nothing written, nothing left"


def test_an_unfinished_shard_is_named_with_the_command_that_finishes_it(tmp_path):
    parts = shards(tmp_path / "a.h5", 2, pending=(5, 6))
    message = refused(lambda: merge(parts, tmp_path / "m.h5"))
    assert message.startswith(f"{parts[0]} has 2 of 32 rows still to do: finish it with vggfeat extract ")
    assert message.endswith(f"-o {tmp_path / 'a.h5'} --shard 0/2 --dataset toy --resume")


def test_what_does_not_belong_together_is_refused(tmp_path):
    one = shards(tmp_path / "a.h5", 2)
    (tmp_path / "b").mkdir()
    out = tmp_path / "m.h5"
    other = write(tmp_path / "b" / "x.h5", shard=Shard(1, 2), settings=recorded(flip=False))
    assert refused(lambda: merge([one[0], other], out)).startswith(
        f"{other} was made otherwise than {one[0]} (flip false there, true here): make it again with vggfeat extract "
    )
    other = write(tmp_path / "b" / "y.h5", shard=Shard(1, 2), dataset=replace(DATASET, name="else"))
    assert f'{other} was made otherwise than {one[0]} (dataset "else" there, "toy" here)' in refused(
        lambda: merge([one[0], other], out)
    )
    renamed = replace(DATASET, samples=(replace(DATASET.samples[0], id="new"), *DATASET.samples[1:]))
    other = write(tmp_path / "b" / "z.h5", shard=Shard(1, 2), dataset=renamed)
    assert refused(lambda: merge([one[0], other], out)) == (
        f"{other} was made from another list than {one[0]}: shard 1/2 of a list of 75, shard 0/2 of a list of 75"
    )
    other = write(tmp_path / "b" / "w.h5", shard=Shard(2, 3))
    assert refused(lambda: merge([one[0], other], out)) == (
        f"{other} is shard 2/3 of a list of 75, {one[0]} is shard 0/2 of a list of 75: they do not fit together"
    )
    assert refused(lambda: merge([one[0], one[0]], out)) == f"{one[0]} and {one[0]} are both shard 0/2: name one"
    whole = write(tmp_path / "whole.h5")
    assert refused(lambda: merge([whole], out)) == f"{whole} is not a shard: it has the whole of its list"
    assert refused(lambda: merge(one, one[0]), UsageError) == f"{one[0]} is one of the shards: name another -o"
    for none in ([], iter([])):
        assert refused(lambda none=none: merge(none, out), UsageError) == (
            "no shards: name the files that extract wrote with --shard"
        )
    out.touch()
    assert refused(lambda: merge(one, out)) == f"{out} exists: --overwrite replaces it"
    assert merge(one, out, overwrite=True).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("labels", "words"), [(None, "no labels"), ((1, -1), "a label for each class")])
def test_shards_with_another_kind_of_labels_are_refused(tmp_path, labels, words):
    first = write(tmp_path / "a.h5", shard=Shard(0, 2))
    changed = replace(DATASET, samples=tuple(replace(sample, labels=labels) for sample in DATASET.samples))
    second = write(tmp_path / "a.h5", changed, shard=Shard(1, 2))
    for one, other, difference in (
        (first, second, f"{words} there, one class an image here"),
        (second, first, f"one class an image there, {words} here"),
    ):
        assert refused(lambda one=one, other=other: merge([one, other], tmp_path / "m.h5")).startswith(
            f"{other} was made otherwise than {one} ({difference}): make it again with vggfeat extract "
        )


def test_a_resumed_shard_must_come_from_the_same_list(tmp_path):
    path = write(tmp_path / "a.h5", shard=Shard(1, 2))
    longer = replace(DATASET, samples=(replace(DATASET.samples[0], id="new"), *DATASET.samples[1:]))
    assert refused(lambda: write(tmp_path / "a.h5", longer, shard=Shard(1, 2), resume=True)) == (
        f"{path} was made from another list: it is shard 1/2 of a list of 75 there, shard 1/2 of a list of 75 here, "
        "or other ids around its own"
    )


def test_svm_and_info_say_what_a_shard_is(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", shard=Shard(0, 2))
    assert refused(lambda: open_features([path])) == (
        f"{path} is shard 0/2 of a list of 75: merge all of them: "
        f"'vggfeat merge {tmp_path}/a.shard-*-of-2.h5 -o {tmp_path}/a.h5'"
    )
    described = info(path)
    assert described["kind"] == "descriptors, shard 0/2 of a list of 75"
    assert described["command"].endswith("--shard 0/2 --dataset toy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "descriptors").mkdir()
    write(tmp_path / "descriptors" / "voc2007-D.h5", shard=Shard(0, 2))
    assert "no descriptors/voc2007-*.h5 here" in refused(lambda: find_descriptors("voc2007"), UsageError)
    write(tmp_path / "descriptors" / "voc2007-D.h5")
    assert find_descriptors("voc2007").name == "voc2007-D.h5", "shards beside it do not count"


def test_the_command_merges_and_reports_failed_rows(tmp_path, capsys):
    parts = list(map(str, shards(tmp_path / "a.h5", 2, failed=(4,))))
    assert run(["merge", *parts, "-o", str(tmp_path / "m.h5"), "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"path": str(tmp_path / "m.h5"), "rows": 75, "dim": 6, "failed": 1}
    assert "1 of 75 images was skipped by extract" in captured.err
    os.unlink(parts[1])  # noqa: PTH108
    assert run(["merge", parts[0], "-o", str(tmp_path / "n.h5")]) == 1
    assert capsys.readouterr().err.startswith("vggfeat: shard 1/2 is missing: make it with vggfeat extract ")


def test_shards_of_different_versions_are_joined_with_a_word(tmp_path, caplog):
    parts = shards(tmp_path / "a.h5", 2)
    with h5py.File(parts[1], "r+") as file:
        file.attrs["torch_version"] = "1.0"
    merge(parts, tmp_path / "m.h5")
    assert "the shards were made with different versions (torch_version " in caplog.text


def test_torchrun_makes_ranks_shards_from_the_environment_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert launched() is None
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("vggfeat.system.launch.available_cores", lambda: 10)
    launch = launched()
    assert (shard_of(None, launch), launch.workers(), launch.device("cpu")) == (Shard(5, 8), 2, "cpu")


@pytest.mark.gpu
def test_a_rank_takes_the_cuda_device_of_its_number(monkeypatch):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launched().device(None) == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    assert "processes on a machine with" in refused(lambda: launched().device("cuda"), UsageError)


STOPPED = """
import os, sys
import vggfeat.stages.merge as stage
from vggfeat.cli import main

merge = stage.merge
stop = lambda done, total, failed: os.kill(os.getpid(), int(sys.argv[1]))
stage.merge = lambda *args, **options: merge(*args, **{**options, "progress": stop})
main(["merge", *sys.argv[2:]])
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_merge_stopped_half_way_leaves_no_file_and_the_next_one_is_whole(tmp_path, name):
    need("os.fork", f"signal.{name}")  # Windows kills by SIGTERM
    how = getattr(signal, name)
    parts, out = shards(tmp_path / "a.h5", 2), tmp_path / "m.h5"
    before = set(tmp_path.iterdir())
    args = [str(int(how)), *map(str, parts), "-o", str(out)]
    done = subprocess.run([sys.executable, "-c", STOPPED, *args], capture_output=True, text=True)
    assert not out.exists()
    if how == signal.SIGKILL:
        assert done.returncode == -9
        assert set(tmp_path.iterdir()) > before, "a killed process cannot tidy up"
    else:
        assert (done.returncode, list(filter(None, done.stderr.splitlines()))) == (
            130,
            [
                "stopped; nothing was written, the shards are as they were; the same command starts again",
                "vggfeat: interrupted",
            ],
        )
        assert set(tmp_path.iterdir()) == before
    assert merge(parts, out).read_bytes() == write(tmp_path / "whole.h5").read_bytes()
    assert set(tmp_path.iterdir()) == before | {out, tmp_path / "whole.h5"}, "what the killed one left is gone"


def test_a_full_disk_is_not_blamed_on_a_shard(tmp_path, monkeypatch):
    parts, out = shards(tmp_path / "a.h5", 2), tmp_path / "m.h5"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RowFile, "write", full)
    assert refused(lambda: merge(parts, out), VggfeatError) == f"{out}: cannot write: No space left on device"
    assert not out.exists()


def test_a_progress_function_that_fails_is_not_blamed_on_a_shard(tmp_path):
    def broken(*_):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        merge(shards(tmp_path / "a.h5", 2), tmp_path / "m.h5", progress=broken)


def test_long_columns_are_written_in_the_writers_own_pieces(tmp_path, monkeypatch):
    """A piece is 65,536 names; here 20, so that pieces begin and end inside of shards."""
    monkeypatch.setattr("vggfeat.store.merging.TEXT_ROWS", 20)
    monkeypatch.setattr("vggfeat.store.writer.TEXT_ROWS", 20)
    whole = write(tmp_path / "whole.h5")
    merge(shards(tmp_path / "a.h5", 4), tmp_path / "m.h5")
    assert (tmp_path / "m.h5").read_bytes() == whole.read_bytes()
