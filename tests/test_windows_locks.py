"""One writer at a time on Windows, by a stand-in for msvcrt."""

import errno
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import windows_locks

from vggfeat.errors import StoreError
from vggfeat.store.locking import OutputLock, holder, lock_path
from vggfeat.system import locking

pytest.importorskip("fcntl", reason="the stand-in is built on flock")

PRELUDE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import windows_locks
windows_locks.install()
from vggfeat.errors import StoreError
from vggfeat.store.locking import OutputLock, holder
path = Path(sys.argv[2])
"""


@pytest.fixture
def windows(tmp_path, monkeypatch):
    """Locks as on Windows, here and in `child`."""
    (tmp_path / "bytes").mkdir()
    monkeypatch.setenv("WINDOWS_LOCKS", str(tmp_path / "bytes"))
    for owner, name, stand_in in windows_locks.STAND_INS:
        monkeypatch.setattr(owner, name, stand_in)


@pytest.fixture
def path(windows, tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "a.h5"


@pytest.fixture
def child(windows):
    """Starts processes that run code after PRELUDE; they end with the test."""
    begun = []

    def start(code, path):
        command = [sys.executable, "-c", PRELUDE + code, os.path.dirname(__file__), str(path)]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8"))
        return begun[-1]

    yield start
    for one in begun:
        one.kill()
        one.wait()
        one.stdout.close()


LOCKED = "lock = OutputLock(path); print('locked', flush=True); time.sleep(60)"


def busy(path, pid):
    return f"{path} is being written by process {pid} on {socket.gethostname()}: wait for it, or name another `output`"


def test_a_second_writer_is_refused_and_told_who_writes(path, child):
    with OutputLock(path):
        name = f"process {os.getpid()} on {socket.gethostname()}"
        assert lock_path(path).read_text() == name
        assert holder(path) == name
        with pytest.raises(StoreError) as raised:
            OutputLock(path)
        assert str(raised.value) == busy(path, os.getpid())
        code = "print(holder(path))\ntry:\n    OutputLock(path)\nexcept StoreError as error:\n    print(error)"
        assert child(code, path).communicate()[0].splitlines() == [name, busy(path, os.getpid())]
    assert holder(path) is None
    assert list(path.parent.iterdir()) == []
    OutputLock(path).release()


def test_a_killed_writers_lock_does_not_count_and_what_it_left_goes(path, child):
    writer = child(LOCKED, path)
    assert writer.stdout.readline() == "locked\n"
    assert holder(path).startswith(f"process {writer.pid} on ")
    with pytest.raises(StoreError) as raised:
        OutputLock(path)
    assert str(raised.value) == busy(path, writer.pid)
    writer.kill()
    writer.wait()
    assert lock_path(path).exists() and holder(path) is None
    path.with_name(".a.h5.abcd1234.part").touch()
    with OutputLock(path):
        assert {one.name for one in path.parent.iterdir()} == {".a.h5.lock"}
    assert list(path.parent.iterdir()) == []


def test_looks_stop_no_writer(path, child):
    looks = child("print('go', flush=True)\nwhile True: holder(path)", path)
    assert looks.stdout.readline() == "go\n"
    end = time.monotonic() + 1
    while time.monotonic() < end:
        OutputLock(path).release()


def test_a_writer_waits_for_a_look_however_long_it_takes(path):
    lock_path(path).touch()
    look = os.open(lock_path(path), os.O_RDONLY)
    with ThreadPoolExecutor(1) as pool, locking._gate(look):
        lock = pool.submit(OutputLock, path)
        assert not wait([lock], timeout=0.3).done
        locking._unlock_byte(look, locking.GATE)
        with lock.result(timeout=60):
            assert locking._locked_byte(look, locking.GATE), "given up again at once"
    os.close(look)


def test_writers_that_come_and_go_never_write_at_once(path, child):
    code = """
end, done = time.monotonic() + 1.5, 0
while time.monotonic() < end:
    try:
        with OutputLock(path):
            path.with_name("alone").touch(exist_ok=False)
            path.with_name("alone").rename(path.with_name("was alone"))
            done += 1
    except StoreError as error:
        assert " is being written by " in str(error), error
print(done)
"""
    counts = [int(one.communicate()[0] or -1) for one in [child(code, path) for _ in range(3)]]
    assert min(counts) > 0


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOLCK])
def test_a_share_without_locks_is_written_all_the_same(path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(windows_locks.Msvcrt, "locking", staticmethod(refused))
    with OutputLock(path):
        assert holder(path) is None
    assert list(path.parent.iterdir()) == []


def test_a_download_waits_for_the_one_that_does_the_same(path, child):
    lock, done = path.with_name(".lock"), path
    code = """
from vggfeat.system.locking import locked, release, remove
with locked(path.with_name(".lock"), path.exists) as stream:
    assert stream is not None
    print("working", flush=True)
    time.sleep(0.5)
    path.touch()
    release(stream)
    remove(path.with_name(".lock"))
"""
    first = child(code, path)
    assert first.stdout.readline() == "working\n"
    with locking.locked(lock, done.exists) as stream:
        assert stream is None and done.exists()
    first.wait()
    assert not lock.exists()


def test_a_read_buffer_keeps_its_place_as_bytes_far_away_are_locked(path):
    path.write_bytes(b"0123456789")
    with path.open("rb+") as stream:
        assert stream.read(4) == b"0123"
        assert locking.take(stream.fileno())
        assert stream.read(2) == b"45"
        locking.release(stream)
        assert stream.closed


def test_locks_by_bytes_are_for_windows_alone():
    assert (locking.msvcrt is None) == (sys.platform != "win32")
    assert Path.unlink is windows_locks._unlink
