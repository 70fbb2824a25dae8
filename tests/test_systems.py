"""Windows, macOS and MPS, by stand-ins: this machine has none of them."""

import ast
import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import vggfeat
from vggfeat import cli
from vggfeat.errors import UsageError, VggfeatError
from vggfeat.stages.bench import svm as bench
from vggfeat.store import locking
from vggfeat.store.locking import OutputLock
from vggfeat.system import devices, files
from vggfeat.system.devices import memory_format, resolve_device, resolve_precision
from vggfeat.system.files import replacing, same_file
from vggfeat.training import features, ranks
from vggfeat.training.ranks import process_group

ROOT = Path(vggfeat.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.stem != "__main__"  # runs the command
)
POSIX_MODULES = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline", "posix")
POSIX_CALLS = (
    "fork", "forkpty", "pwrite", "pread", "sched_getaffinity", "sched_setaffinity", "getuid", "geteuid", "getgid",
    "getegid", "setsid", "killpg", "getpgid", "uname", "sysconf", "statvfs", "fchmod", "chown", "mkfifo", "sync",
    "posix_fallocate", "posix_fadvise", "register_at_fork", "getloadavg", "nice", "O_NONBLOCK", "O_CLOEXEC",
    "O_NOFOLLOW", "O_DIRECTORY", "SEEK_HOLE", "SEEK_DATA",
)  # fmt: skip
MPS = torch.device("mps")

HIDING = """
import importlib, os, signal, sys
hidden, modules, calls = (line.split() for line in sys.stdin.read().splitlines())
import numpy, torch, torchvision, sklearn.svm, scipy.sparse, h5py, PIL.Image, click, rich.console  # theirs to adapt
import sklearn.metrics, sklearn.model_selection, multiprocessing, subprocess, tempfile, torch.distributed, torch.fx
import asyncio, concurrent.futures, logging.handlers, urllib.request, tarfile, shutil, http.server
for name in hidden:
    sys.modules[name] = None
for name in calls:
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "SIGQUIT"):
    delattr(signal, name)
for name in modules:
    importlib.import_module(name)
from vggfeat.system.locking import CAN_LOCK
from vggfeat.system.launch import available_cores
assert not CAN_LOCK and available_cores() >= 1
print(len(modules))
"""


def child(code: str, text: str = "", **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, text=True, capture_output=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_imports_without_what_windows_lacks():
    lists = (POSIX_MODULES, MODULES, [call for call in POSIX_CALLS if call != "register_at_fork"])
    assert child(HIDING, "\n".join(" ".join(names) for names in lists)) == str(len(MODULES))


def test_calls_that_windows_lacks_are_asked_for_first():
    """Each `os.fork` and its like stands in a function that asks `hasattr(os, ...)` for it."""
    unguarded = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
                and node.attr in POSIX_CALLS
                and f'hasattr(os, "{node.attr}")' not in text
            ):
                unguarded.append(f"{path.relative_to(ROOT)}:{node.lineno} os.{node.attr}")
    assert unguarded == []


def test_text_files_name_their_encoding():
    """Windows reads and writes text in the user's code page, unless told."""
    unnamed = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                mode = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                opens = node.func.attr == "open" and len(node.args) == 1 and mode in (["r"], ["w"], ["a"], ["x"])
                text = opens or node.func.attr in ("read_text", "write_text")
                if text and not any(keyword.arg == "encoding" for keyword in node.keywords):
                    unnamed.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert unnamed == []


def test_a_result_is_flushed_through_a_handle_that_may_write(tmp_path, monkeypatch):
    flushed, fcntl = [], pytest.importorskip("fcntl")
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_RDWR))
    with replacing(tmp_path / "a.h5") as temporary:
        temporary.write_bytes(b"new")
    assert flushed == [os.O_RDWR], "FlushFileBuffers refuses a handle for reading"


@pytest.fixture
def held_open(monkeypatch):
    """Path.replace as on Windows, where a file that a program holds open cannot be replaced; returns the held paths."""
    held, replace = set(), Path.replace

    def refusing(self, target):
        if Path(target) in held:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    return held


def test_a_result_is_kept_where_the_file_to_replace_is_open_elsewhere(tmp_path, held_open):
    target = tmp_path / "feats.h5"
    target.write_bytes(b"old")
    held_open.add(target)
    with pytest.raises(VggfeatError) as raised, replacing(target) as temporary:
        temporary.write_bytes(b"new")
    (kept,) = set(tmp_path.iterdir()) - {target}
    assert (target.read_bytes(), kept.read_bytes()) == (b"old", b"new")
    assert str(raised.value) == (f"{target}: cannot replace it; is it open in another program? The result is in {kept}")
    assert kept.suffix == ".h5" and kept.name.startswith("feats."), "a name that the reader can open"


def test_a_file_that_is_open_for_a_moment_is_replaced_after_it(tmp_path, held_open, monkeypatch):
    target = tmp_path / "feats.h5"
    target.write_bytes(b"old")
    held_open.add(target)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: held_open.clear())
    with replacing(target) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new" and list(tmp_path.iterdir()) == [target]


def test_a_path_too_long_for_windows_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sys", types.SimpleNamespace(platform="win32"))
    monkeypatch.setattr(files.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(FileNotFoundError(2, "No such")))
    target = tmp_path / ("n" * (244 - len(str(tmp_path))))
    with pytest.raises(VggfeatError) as raised:
        files.check_writable(target)
    assert str(raised.value) == (
        f"{target}: cannot write here: the path is too long for Windows, whose limit is 260 characters; "
        "name a shorter one"
    )
    short = tmp_path / "n"
    with pytest.raises(VggfeatError, match=f"^{short}: cannot write here: No such$"):
        files.check_writable(short)


def test_two_names_are_one_file_where_the_file_system_says_so(tmp_path, monkeypatch):
    a, b = tmp_path / "Shard.h5", tmp_path / "shard.h5"
    a.touch()
    assert same_file(a, tmp_path / "x" / ".." / "Shard.h5") and not same_file(a, b)
    os.link(a, b)  # as on a file system that ignores case: another name, the same file
    assert same_file(a, b)


def test_a_lock_without_fcntl_leaves_other_processes_files_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "fcntl", None)
    monkeypatch.setattr(locking, "CAN_LOCK", False)
    others = tmp_path / ".a.h5.12345678.part"
    others.touch()
    open_handles, close, unlink = set(), os.close, Path.unlink

    def opened(path, *args, _open=os.open):
        handle = _open(path, *args)
        open_handles.add(handle)
        return handle

    def closed(handle):
        open_handles.discard(handle)
        close(handle)

    def unlinked(self, missing_ok=False):
        assert not open_handles, "Windows removes no open file"
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "close", closed)
    monkeypatch.setattr(Path, "unlink", unlinked)
    with OutputLock(tmp_path / "a.h5"):
        assert locking.holder(tmp_path / "a.h5") is None
    assert list(tmp_path.iterdir()) == [others]


def test_the_frozen_layers_outputs_are_written_without_pwrite(tmp_path, monkeypatch):
    layout = features.Layout("print", 2, (3,), 0)
    features.FeatureFile.make(tmp_path / "f", layout)
    monkeypatch.delattr(os, "pwrite")
    file = features.FeatureFile(tmp_path / "f", layout)
    for row in (1, 0):
        file.write(row, torch.full((3,), 10.0 + row).numpy(), 1.0, None)  # byte 10 is a line end
    file.commit()
    outputs, records = file.read([0, 1])
    file.close()
    assert outputs.tolist() == [[10.0] * 3, [11.0] * 3] and records["status"].tolist() == [features.DONE] * 2


def test_the_bench_of_svm_fits_runs_without_resource_and_fork(monkeypatch):
    monkeypatch.setattr(bench, "resource", None)
    monkeypatch.setattr(bench, "sys", types.SimpleNamespace(platform="win32"))
    size = bench.Size(classes=8, dim=64, per_class=24)
    figures = bench.bench_svm(size, Cs=(1.0,)).as_json()["sizes"]["given"]
    assert figures["peak_bytes"] is None
    assert figures["liblinear_two_processes_seconds"] != figures["liblinear_two_processes_seconds"], "NaN"


@pytest.mark.parametrize(
    ("error", "platform", "closed"),
    [
        (BrokenPipeError(), "linux", True),
        (OSError(errno.EINVAL, "Invalid argument"), "win32", True),
        (OSError(errno.EINVAL, "Invalid argument"), "linux", False),
        (OSError(errno.EINVAL, "Invalid argument", "a:b.h5"), "win32", False),
        (OSError(errno.ENOSPC, "No space"), "win32", False),
    ],
)
def test_a_closed_pipe_is_known_on_windows_too(error, platform, closed):
    assert cli.closed_pipe(error, platform) is closed


def test_a_closed_pipe_on_windows_ends_quietly():
    code = """
import errno, sys
from vggfeat import cli
cli.closed_pipe.__defaults__ = ("win32",)
cli.vggfeat.main = lambda *args, **kwargs: (_ for _ in ()).throw(OSError(errno.EINVAL, "Invalid argument"))
print(cli.run(["nets"]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "0\n")


@pytest.fixture
def mps(monkeypatch):
    """A machine with MPS, as far as torch's questions about it go."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_mps_is_the_best_device_without_cuda(mps):
    assert resolve_device() == resolve_device("mps") == MPS


@pytest.mark.parametrize("training", [False, True])
def test_auto_is_fp32_on_mps(mps, training):
    assert resolve_precision("auto", MPS, training=training) == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_on_mps_is_in_fp32(mps, precision, monkeypatch):
    monkeypatch.setattr(devices, "_macos", lambda major: True)
    assert resolve_precision(precision, MPS) == precision, "inference may"
    with pytest.raises(UsageError) as raised:
        resolve_precision(precision, MPS, training=True)
    assert str(raised.value) == f"`precision={precision}`: training on mps is in fp32; take `precision=auto`"


def test_bf16_on_mps_needs_macos_14(mps, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: version <= (13, 3), raising=False)
    with pytest.raises(UsageError) as raised:
        resolve_precision("bf16", MPS)
    assert str(raised.value) == "`precision=bf16`: mps has it from macOS 14 on; take `precision=auto`"
    with pytest.raises(UsageError, match="^`precision=tf32` needs a CUDA device of capability 8 or later, not mps"):
        resolve_precision("tf32", MPS)


def test_channels_last_is_left_out_on_mps():
    assert memory_format(MPS) == torch.contiguous_format
    assert memory_format(torch.device("cpu")) == memory_format(torch.device("cuda")) == torch.channels_last


@pytest.mark.parametrize(
    ("platform", "users", "found"),
    [("win32", None, "0"), ("win32", "1", "1"), ("linux", None, None), ("darwin", None, None)],
)
def test_processes_on_windows_meet_without_libuv_which_torch_2_4_lacks_there(monkeypatch, platform, users, found):
    seen = []
    monkeypatch.setattr(ranks, "sys", types.SimpleNamespace(platform=platform))
    monkeypatch.setattr(os, "environ", {**os.environ, "WORLD_SIZE": "2", "RANK": "0"})
    os.environ.pop("USE_LIBUV", None)
    if users is not None:
        os.environ["USE_LIBUV"] = users
    monkeypatch.setattr(
        ranks.distributed, "init_process_group", lambda backend: seen.append(os.environ.get("USE_LIBUV"))
    )
    monkeypatch.setattr(ranks.distributed, "destroy_process_group", lambda: None)
    with process_group(torch.device("cpu")):
        pass
    assert seen == [found]


def test_several_processes_do_not_share_mps(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError) as raised, process_group(MPS):
        pass
    assert str(raised.value) == ("torch.distributed has no backend for mps: start one process, or take `device=cpu`")
