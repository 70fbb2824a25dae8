"""The Ray recipe on a local Ray, a worker of which is killed in the middle: the file of one process. Needs ray."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vggfeat.cli import run
from vggfeat.errors import StoreError
from vggfeat.stages.info import shards

RECIPE = Path(__file__).parents[1] / "recipes" / "ray_shards.py"
NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32", "--scales", "224"]


def kill_a_writer(output: Path, process: subprocess.Popen) -> int:
    """Kills the first process that is in the middle of a shard; returns the rows that it had done."""
    while process.poll() is None:
        time.sleep(0.05)
        try:
            state = shards(output)
        except StoreError:  # no shard yet
            continue
        for one in state.shards:
            if one.writer and one.rows and 0 < one.done < one.rows:
                os.kill(int(one.writer.split()[1]), signal.SIGKILL)
                return one.done
    pytest.fail("no worker was found in the middle of a shard")


def test_a_killed_worker_is_started_again_and_the_bytes_are_those_of_one_process(photos, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    paths = [photos / f"copy{i:03}.jpg" for i in range(320)]
    for i, path in enumerate(paths):
        shutil.copy(photos / f"{i % 6}.jpg", path)
    paths[100].write_text("no image")
    (tmp_path / "list").write_text("\n".join(map(str, paths)))
    images = ["--list", str(tmp_path / "list"), *NARROW]
    output = tmp_path / "feats.h5"
    command = [sys.executable, str(RECIPE), "--shards", "3", "--cpus", "1", "-o", str(output), "--", *images]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    done = kill_a_writer(output, process)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 3, text
    assert done > 0
    assert "will be retried" in text
    alone = [sys.executable, "-m", "vggfeat", "extract", *images, "-o", str(tmp_path / "one.h5")]
    assert subprocess.run(alone, capture_output=True).returncode == 3
    assert output.read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_the_recipe_names_the_verbs_options_as_the_program_has_them(capsys):
    text = RECIPE.read_text()
    assert run(["extract", "--help"]) == 0
    known = capsys.readouterr().out
    assert all(flag in known for flag in ("--shard", "--resume", "--list", "--net", "--scales"))
    compile(text, str(RECIPE), "exec")
