"""Downloads and fits killed at any instant, and commands asked to stop: nothing half-written, and a way to go on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from making import clusters, two_classes, write_descriptors
from needs import need
from serving import Handler, Server, serving

from vggfeat.cli import run
from vggfeat.nets.networks import VGG, glorot_

NARROW = ["--net", "A", "--weights", "none", "--width", "0.0625", "--precision", "fp32"]
CONTENT = np.random.default_rng(0).bytes(600_000)


def slowly(content: bytes):
    """A good server on a slow line, which goes on where it is asked to."""

    def script(handler: Handler) -> None:
        asked = handler.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        for at in range(start, len(content), 40_000):
            handler.wfile.write(content[at : min(at + 40_000, len(content))])
            time.sleep(0.01)

    return script


@pytest.fixture
def server():
    with serving() as one:
        yield one


# Puts a local server's files into the tables of what is published.
TABLES = """
import dataclasses, json, os
from vggfeat.nets import catalog
from vggfeat.datasets import archives
row = json.loads(os.environ["PUBLISHED"])
if row["kind"] == "weights":
    own = dict(url=row["url"], digest=row["digest"], size=row["size"])
    catalog.WEIGHTS = tuple(
        dataclasses.replace(one, **own) if (one.net, one.source) == ("D", "oxford") else one for one in catalog.WEIGHTS
    )
else:
    published = archives.PUBLISHED["caltech256"]
    archives.PUBLISHED["caltech256"] = dataclasses.replace(
        published, archives=(archives.Archive(row["url"], row["digest"]),)
    )
"""


def publish(server: Server, kind: str) -> dict[str, str]:
    """The environment in which the weights of D, or Caltech-256, come from the local server."""
    content = CONTENT
    if kind == "data set":
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for i in range(300):
                member = tarfile.TarInfo(f"256_ObjectCategories/001.ak47/{i:04}.jpg")
                member.size = 1000
                tar.addfile(member, io.BytesIO(CONTENT[i : i + 1000]))
        content = stream.getvalue()
    server.files["/file.bin"] = slowly(content)
    digest = f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
    row = {"kind": kind, "url": server.url("/file.bin"), "digest": digest, "size": len(content)}
    return {**os.environ, "PUBLISHED": json.dumps(row), "VGGFEAT_OFFLINE": "", "OMP_NUM_THREADS": "1"}


# A process that has run the command once forks all that are to be killed: their imports take longer than they run.
KILLS = """
import os, pathlib, random, shutil, signal, sys, time
from vggfeat.cli import run

kills, out, former = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
prelude, command = sys.argv[4], sys.argv[5:]
exec(prelude)

def content(path):
    if path.is_file():
        return path.read_bytes()
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}

def forked(delay=None):
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os._exit(run(command))
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return time.monotonic() - started, os.waitstatus_to_exitcode(status)

def emptied():
    for one in out.parent.iterdir():
        shutil.rmtree(one) if one.is_dir() else one.unlink()

assert run(command) == 0
whole = content(out)
emptied()
seconds, code = forked()
assert code == 0 and content(out) == whole
emptied()
allowed = [whole]
if former:
    allowed.append(pathlib.Path(former).read_bytes())
    assert allowed[1] != whole
chance, killed, hits = random.Random(0), 0, {"absent": 0, "former": 0, "whole": 0}
while killed < kills:
    if former and not out.exists() and chance.random() < 0.5:
        shutil.copy(former, out)
    had = out.exists()
    _, code = forked(chance.uniform(0, 1.1 * seconds))
    assert code in (0, -9), code
    killed += code == -9
    assert out.exists() or not had, "a former file was lost"
    if out.exists():
        assert content(out) in allowed, f"half a file after {killed} kills"
    hits["absent" if not out.exists() else "whole" if content(out) == whole else "former"] += 1
    if code == 0 or chance.random() < 0.3:
        assert forked()[1] == 0
        assert content(out) == whole, f"another result after {killed} kills"
        assert [one.name for one in out.parent.iterdir()] == [out.name], os.listdir(out.parent)
        emptied()
assert forked()[1] == 0 and content(out) == whole
print(killed, hits)
"""

COUNTS = [2, pytest.param(20, marks=pytest.mark.slow)]


def kill_at_random(kills: int, out: Path, prelude: str, command: list[str], env: dict[str, str], former: str = ""):
    need("os.fork")
    out.parent.mkdir(parents=True)
    words = [sys.executable, "-c", KILLS, str(kills), str(out), former, prelude, *command]
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()[-1]
    assert int(told.split()[0]) == kills
    assert [one.name for one in out.parent.iterdir()] == [out.name], "a clean end leaves nothing else"
    print(told)


@pytest.mark.parametrize("kills", COUNTS)
@pytest.mark.parametrize("kind", ["weights", "data set"])
def test_a_download_killed_at_any_instant_is_whole_or_absent_and_goes_on(server, tmp_path, kind, kills):
    env = {**publish(server, kind), "VGGFEAT_CACHE": str(tmp_path / "cache")}
    if kind == "weights":
        out = tmp_path / "cache" / "weights" / "VGG_ILSVRC_16_layers.caffemodel"
        command = ["download", "--net", "D", "--source", "oxford", "--quiet"]
    else:
        out = tmp_path / "data" / "caltech256" / "256_ObjectCategories"
        command = ["download", "--dataset", "caltech256", "--data", str(tmp_path / "data"), "--quiet"]
    kill_at_random(kills, out, TABLES, command, env)
    if kills >= 20:  # two may both fall before the first byte, or after the last
        assert any(asked for _, asked in server.requests), "no download went on where one was killed"


@pytest.mark.parametrize("kills", COUNTS)
def test_an_svm_killed_at_any_instant_leaves_the_former_model_or_the_new_one(tmp_path, kills):
    dataset, values = clusters([20] * 6, dim=64)
    file = write_descriptors(tmp_path / "toy.h5", dataset, values)
    former = tmp_path / "former.h5"
    assert run(["svm", str(file), "--C", "0.5", "-o", str(former), "--quiet"]) == 0
    out = tmp_path / "out" / "m.h5"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    kill_at_random(kills, out, "", ["svm", str(file), "-o", str(out), "--quiet"], env, str(former))


# A signal a moment after the second sign of progress: in the middle of the work, wherever that is.
STOPPED = """
import os, signal, sys, threading
from vggfeat.cli import progress
from vggfeat.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where a shell has it ignored (&)
how, prelude = int(sys.argv[1]), sys.argv[2]

def stop():
    threading.Timer(0.02, os.kill, (os.getpid(), how)).start()

tick, ticks = progress.Ticker.tick, []
def signalling(self, *numbers):
    tick(self, *numbers)
    ticks.append(numbers)
    if len(ticks) == 2:
        stop()
progress.Ticker.tick = signalling
exec(prelude)
sys.argv[1:] = sys.argv[3:]
main()
"""
BOTH = pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])


def stopped(how: signal.Signals, command: list[str], prelude: str = "", env: dict[str, str] | None = None) -> list[str]:
    """The lines that a command which got a signal says on stderr; it must end by itself, with code 130."""
    words = [sys.executable, "-c", STOPPED, str(int(how)), prelude, *command]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=90)
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return list(filter(None, done.stderr.splitlines()))  # click ends the line in which a terminal shows ^C


@BOTH
def test_a_stopped_svm_writes_nothing_and_says_so(tmp_path, how):
    dataset, values = clusters([60] * 30, dim=400)
    file = write_descriptors(tmp_path / "toy.h5", dataset, values)
    out = tmp_path / "out" / "m.h5"
    lines = stopped(how, ["svm", str(file), "--num-splits", "20", "-o", str(out)])
    assert lines[-2:] == ["stopped; no model was written; the same command starts again", "vggfeat: interrupted"]
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


# The signal comes inside of a weak reference's callback, whose exceptions Python drops with a word on stderr.
UNHEARD = """
import weakref
class Thing:
    pass
def stop():
    def callback(_):
        os.kill(os.getpid(), how)
        for _ in range(10_000):
            pass
    thing = Thing()
    reference = weakref.ref(thing, callback)
    del thing
"""


@pytest.mark.parametrize("shell", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN)"], ids=["", "SIGINT ignored"])
def test_a_signal_that_python_drops_stops_the_command_all_the_same(tmp_path, shell):
    dataset, values = clusters([60] * 30, dim=400)
    file = write_descriptors(tmp_path / "toy.h5", dataset, values)
    assert stopped(signal.SIGTERM, ["svm", str(file), "--num-splits", "20"], UNHEARD + shell) == [
        "stopped; no model was written; the same command starts again",
        "vggfeat: interrupted",
    ]


@BOTH
@pytest.mark.parametrize("kind", ["weights", "data set"])
def test_a_stopped_download_keeps_what_has_come(server, tmp_path, kind, how):
    env = {**publish(server, kind), "VGGFEAT_CACHE": str(tmp_path / "cache")}
    command = ["download", "--dataset", "caltech256", "--data", str(tmp_path / "data")]
    if kind == "weights":
        command = ["download", "--net", "D", "--source", "oxford"]
    lines = stopped(how, command, TABLES, env)
    assert lines[-2:] == [
        "stopped; what has arrived is kept, and the same command continues",
        "vggfeat: interrupted",
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{TABLES}\nfrom vggfeat.cli import main\nmain(sys.argv[1:])", *command],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    asked = [place for _, place in server.requests]
    assert len(asked) == 2
    assert asked[1] and int(asked[1].removeprefix("bytes=").removesuffix("-")) >= 40_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "tree", 64)


@BOTH
@pytest.mark.parametrize("kept", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_stopped_evaluation_says_what_is_kept(tree, tmp_path, how, kept):
    net = VGG("A", width=1 / 16, num_classes=2, class_names=("a", "b"))
    glorot_(net).save(tmp_path / "net.pt")
    command = ["evaluate", "--weights", str(tmp_path / "net.pt"), "--dataset", "folder", "--data", str(tree)]
    command += ["--subset", "all", "--scales", "224,256", "--precision", "fp32", "--workers", "1"]
    if not kept:
        assert stopped(how, command)[-2:] == [
            "stopped; nothing is kept: with -o FILE a run that is stopped goes on with --resume",
            "vggfeat: interrupted",
        ]
        return
    cut, whole = tmp_path / "cut.h5", tmp_path / "whole.h5"
    assert stopped(how, [*command, "-o", str(cut)])[-2:] == [
        "stopped; what is done is kept, and the same command with --resume goes on",
        "vggfeat: interrupted",
    ]
    assert run([*command, "-o", str(cut), "--resume", "--quiet"]) == 0
    assert run([*command, "-o", str(whole), "--quiet"]) == 0
    assert np.array_equal(*(_posteriors(path) for path in (cut, whole)))


def _posteriors(path: Path) -> np.ndarray:
    from vggfeat.store import read_descriptors

    return read_descriptors(path).read()


TRAIN = [
    "--dataset",
    "folder",
    "--net",
    "A",
    "--width",
    "0.015625",
    "--precision",
    "fp32",
    "--batch-size",
    "8",
    "--S",
    "224",
    "--workers",
    "1",
    "--quiet",
]

# Each picture whose colours are looked at takes long; the signal comes at the third.
COLOURS = """
import vggfeat.training.crops as crops
moments, seen = crops._moments, []
def slow(*arguments):
    seen.append(1)
    if len(seen) == 3:
        stop()
    import time
    time.sleep(0.5)
    return moments(*arguments)
crops._moments = slow
"""

UPDATES = """
import vggfeat.training.trainer as trainer
update, done = trainer.Trainer.update, []
def counted(self, *arguments):
    done.append(1)
    if len(done) == 3:
        stop()
    return update(self, *arguments)
trainer.Trainer.update = counted
"""


@BOTH
def test_training_stopped_before_its_first_update_ends_at_once(tree, tmp_path, how):
    """It looks at the colours of 58 pictures then, half a second each here: none but those begun are waited for."""
    begun = time.monotonic()
    command = ["train", "--data", str(tree), *TRAIN, "-o", str(tmp_path / "run")]
    assert stopped(how, command, COLOURS)[-1] == "vggfeat: interrupted"
    assert time.monotonic() - begun < 25, "it waited for all of them"
    assert not (tmp_path / "run" / "last.pt").exists()


@BOTH
def test_stopped_training_keeps_its_state_and_names_the_command(tree, tmp_path, how):
    command = ["train", "--data", str(tree), *TRAIN, "--epochs", "500", "-o", str(tmp_path / "run")]
    last = stopped(how, command, UPDATES)[-1]
    assert last.startswith("stopped after update ")
    assert last.endswith(f"go on with: vggfeat {' '.join(command)} --resume")
    assert (tmp_path / "run" / "last.pt").exists()
