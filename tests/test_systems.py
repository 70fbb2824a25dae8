"""Windows, macOS and MPS, by stand-ins: this machine has none of them."""

import ast
import errno
import io
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from making import write_descriptors

import vggfeat
from vggfeat import cli
from vggfeat.classifiers.protocols.splits import shuffled
from vggfeat.cli import run
from vggfeat.cli.console import print_rows
from vggfeat.datasets import Dataset, Sample, listing
from vggfeat.datasets.split import TrainingSet, data_digest
from vggfeat.errors import DatasetError, InUseError, TrainingError, UsageError, VggfeatError
from vggfeat.stages.bench import svm as bench
from vggfeat.store import locking
from vggfeat.store.locking import OutputLock
from vggfeat.store.schema import read_text, text_array
from vggfeat.store.shards import Shard, cut
from vggfeat.system import devices, files
from vggfeat.system import locking as locks
from vggfeat.system.devices import memory_format, resolve_device, resolve_precision
from vggfeat.system.files import replacing, same_file
from vggfeat.system.launch import launched
from vggfeat.system.text import name_bytes
from vggfeat.training import features, ranks
from vggfeat.training.ranks import process_group

ROOT = Path(vggfeat.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.stem != "__main__"  # runs the command
)
TEST_MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
POSIX_MODULES = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline", "posix")
POSIX_CALLS = (
    "fork", "forkpty", "pwrite", "pread", "sched_getaffinity", "sched_setaffinity", "getuid", "geteuid", "getgid",
    "getegid", "setsid", "killpg", "getpgid", "uname", "sysconf", "statvfs", "fchmod", "chown", "mkfifo", "sync",
    "posix_fallocate", "posix_fadvise", "register_at_fork", "getloadavg", "nice", "O_NONBLOCK", "O_CLOEXEC",
    "O_NOFOLLOW", "O_DIRECTORY", "SEEK_HOLE", "SEEK_DATA",
)  # fmt: skip
POSIX_SIGNALS = ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "SIGQUIT", "alarm")
POSIX_NAMES = frozenset(
    {
        *(f"os.{name}" for name in POSIX_CALLS),
        *(f"os.{name}" for name in ("kill", "waitpid", "wait", "WNOHANG", "WIFSIGNALED", "WTERMSIG", "WEXITSTATUS")),
        *(f"signal.{name}" for name in POSIX_SIGNALS),
        "preexec_fn",
    }
)
"""What Windows lacks, or does otherwise: its `os.kill` ends a process."""
MPS = torch.device("mps")

HIDING = """
import importlib, os, signal, sys
hidden, modules, calls = (line.split() for line in sys.stdin.read().splitlines())
import numpy, torch, torchvision, sklearn.svm, scipy.sparse, h5py, PIL.Image, click, rich.console  # theirs to adapt
import sklearn.metrics, sklearn.model_selection, multiprocessing, subprocess, tempfile, torch.distributed, torch.fx
import sklearn.utils.estimator_checks
import pytest, asyncio, concurrent.futures, logging.handlers, urllib.request, tarfile, shutil, http.server
for name in hidden:
    sys.modules[name] = None
for name in calls:
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "SIGQUIT"):
    delattr(signal, name)
failed = []
for name in modules:
    try:
        importlib.import_module(name)
    except BaseException as error:
        if type(error).__name__ != "Skipped":  # by importorskip
            failed.append(f"{name}: {error}")
assert not failed, failed
from vggfeat.system.locking import can_lock
from vggfeat.system.launch import available_cores
assert not can_lock() and available_cores() >= 1
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


def test_every_test_module_imports_without_what_windows_lacks():
    lists = (POSIX_MODULES, TEST_MODULES, [call for call in POSIX_CALLS if call != "register_at_fork"])
    folder = os.fspath(Path(__file__).parent)
    environment = {"PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
    assert child(HIDING, "\n".join(" ".join(names) for names in lists), **environment) == str(len(TEST_MODULES))


def asked(function: ast.AST) -> set[str]:
    """`os.fork` where a function has `hasattr(os, "fork")`."""
    return {
        f"{node.args[0].id}.{node.args[1].value}"
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) == "hasattr"
        and isinstance(node.args[0], ast.Name)
        and isinstance(node.args[1], ast.Constant)
    }


def used_unasked(node: ast.AST, allowed: frozenset[str] = frozenset()) -> list[tuple[int, str]]:
    """(line, name) of what Windows lacks, outside of functions that ask for it."""
    found = []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        allowed |= asked(node)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        found = [(node.lineno, f"{node.value.id}.{node.attr}")]
    elif isinstance(node, ast.ImportFrom):
        found = [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    elif isinstance(node, ast.keyword) and node.arg == "preexec_fn":
        found = [(node.value.lineno, "preexec_fn")]
    found = [(line, name) for line, name in found if name in POSIX_NAMES and name not in allowed]
    return found + [one for below in ast.iter_child_nodes(node) for one in used_unasked(below, allowed)]


def test_calls_that_windows_lacks_are_asked_for_first():
    """Each `os.fork` and its like stands in a function that asks `hasattr(os, ...)` for it."""
    unguarded = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, name in used_unasked(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert unguarded == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import os\ndef f():\n    if hasattr(os, 'fork'):\n        os.fork()", []),
        ("def g(): return hasattr(os, 'fork')\ndef f(): os.fork()", ["os.fork"]),
        ("def f(): hasattr(os, 'kill') and os.fork()", ["os.fork"]),
        ("from os import path, waitpid", ["os.waitpid"]),
        ("def f(): os.kill(1, signal.SIGKILL)", ["os.kill", "signal.SIGKILL"]),
        ("run(words, preexec_fn=os.setsid)", ["preexec_fn", "os.setsid"]),
    ],
)
def test_the_search_for_calls_that_windows_lacks_sees_them(code, names):
    assert [name for _, name in used_unasked(ast.parse(code))] == names


def text_calls(tree: ast.AST) -> list[tuple[int, set[str]]]:
    """(line, what it must say and does not) of each call that reads or writes text."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        builtin = isinstance(node.func, ast.Name) or (owner, name) == ("os", "fdopen")
        modes = node.args[1 if builtin else 0 :][:1] + [given[word] for word in ("mode",) if word in given]
        mode = modes[0].value if modes and isinstance(modes[0], ast.Constant) else None if modes else "r"
        needs = set()
        if (name in ("open", "fdopen") and owner != "os") or (owner, name) == ("os", "fdopen"):
            if isinstance(mode, str) and set(mode) <= set("rwaxt+"):
                needs = {"encoding"} | ({"newline"} if set(mode) & set("wax") else set())
        elif name == "TextIOWrapper" or (name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)):
            needs = {"encoding"} | ({"newline"} if name == "write_text" else set())
        elif any(getattr(given.get(word), "value", False) for word in ("text", "universal_newlines")):
            needs = {"encoding"}
        if needs - given.keys():
            found.append((node.lineno, needs - given.keys()))
    return found


def test_text_files_name_their_encoding_and_their_line_ends():
    """Windows reads and writes text in the user's code page, and ends its lines with CRLF, unless told."""
    unnamed = [
        f"{path.relative_to(ROOT)}:{line} {' '.join(sorted(missing))}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, missing in text_calls(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert unnamed == []


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("open(p)", {"encoding"}),
        ("open(p, 'rb')", set()),
        ("open(p, mode='w', newline='')", {"encoding"}),
        ("p.open()", {"encoding"}),
        ("p.open('a', encoding='utf-8')", {"newline"}),
        ("Image.open(p)", set()),
        ("os.open(p, os.O_RDONLY)", set()),
        ("os.fdopen(handle)", {"encoding"}),
        ("os.fdopen(handle, 'wb')", set()),
        ("p.read_text()", {"encoding"}),
        ("p.write_text(t, encoding='utf-8')", {"newline"}),
        ("subprocess.run(words, text=True)", {"encoding"}),
        ("subprocess.run(words, text=True, encoding='utf-8')", set()),
        ("subprocess.run(words)", set()),
    ],
)
def test_the_search_for_text_sees_it(code, missing):
    assert [needed for _, needed in text_calls(ast.parse(code))] == ([missing] if missing else [])


def test_a_new_file_that_a_scanner_opens_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    refusals, opened = [1, 2], Path.open

    def scanned(self, *args, **kwargs):
        if refusals and self.suffix == ".part":
            refusals.pop()
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    with replacing(tmp_path / "a.h5") as temporary:
        temporary.write_bytes(b"new")
        monkeypatch.setattr(Path, "open", scanned)
    assert (tmp_path / "a.h5").read_bytes() == b"new" and not refusals


def test_a_result_is_flushed_through_a_handle_that_may_write(tmp_path, monkeypatch):
    flushed, fcntl = [], pytest.importorskip("fcntl")
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_RDWR))
    with replacing(tmp_path / "a.h5") as temporary:
        temporary.write_bytes(b"new")
    assert flushed == [os.O_RDWR], "FlushFileBuffers refuses a handle for reading"


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


def test_a_result_is_kept_where_the_new_file_is_open_too(tmp_path, held_open, monkeypatch):
    target = tmp_path / "feats.h5"
    target.write_bytes(b"old")
    with pytest.raises(VggfeatError) as raised, replacing(target) as temporary:
        temporary.write_bytes(b"new")
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Access is denied")))
    assert temporary.read_bytes() == b"new"
    assert str(raised.value).endswith(f"is it open in another program? The result is in {temporary}")


def test_an_error_is_not_hidden_by_a_temporary_file_that_cannot_be_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Access is denied")))
    with pytest.raises(VggfeatError) as raised, replacing(tmp_path / "a.h5"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(raised.value) == f"{tmp_path / 'a.h5'}: cannot write: No space left on device"


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


def converting_as_windows(monkeypatch):
    """Python's conversions of names as they are there, where bytes outside UTF-8 are errors."""
    monkeypatch.setattr(os, "fsencode", lambda name: os.fspath(name).encode("utf-8", "surrogatepass"))
    monkeypatch.setattr(os, "fsdecode", lambda data: data.decode("utf-8", "surrogatepass"))


ODD = [f"{name}.jpg" for name in ("caf\udce9", "na\u00efve", "\U0001f389", "a", "\udcff\udcfe")]
"""Names of Linux, two of them with bytes outside UTF-8."""


def test_names_outside_utf8_have_the_same_splits_hashes_and_bytes_everywhere(tmp_path, monkeypatch, capfdbinary):
    def seen(path):
        samples = [Sample(id, id, number % 2) for number, id in enumerate(ODD)]
        dataset = Dataset("images", tuple(samples), ("\udce9", "e"))
        _, portion = cut(dataset, Shard(0, 1), [range(len(ODD))])
        with h5py.File(path, "w") as file:
            file.create_dataset("ids", data=text_array(ODD), dtype=h5py.string_dtype())
            ids = read_text(file["ids"])
        print_rows([ODD])
        digest = data_digest(TrainingSet("images", tuple(samples), tuple(samples), ("\udce9", "e"), True, True))
        return ids, shuffled(ODD, 0), sorted(ODD, key=name_bytes), portion, digest, capfdbinary.readouterr().out

    here = seen(tmp_path / "linux.h5")
    with monkeypatch.context() as patch:
        converting_as_windows(patch)
        there = seen(tmp_path / "windows.h5")
    assert there == here
    assert here[0] == ODD
    assert here[-1] == "\t".join(ODD).encode("utf-8", "surrogateescape") + b"\n"


def test_a_name_that_only_windows_allows_has_bytes_too():
    assert name_bytes("\ud800.jpg") == b"\xed\xa0\x80.jpg"


@pytest.mark.parametrize("options", [{}, {"nul": True}])
def test_a_list_on_windows_that_is_not_utf8_says_so(monkeypatch, options):
    monkeypatch.setattr(listing, "sys", types.SimpleNamespace(platform="win32"))
    end = b"\0" if options else b"\r\n"
    assert listing.from_list(io.BytesIO("caf\u00e9.jpg".encode() + end), **options).samples[0].id == "caf\u00e9.jpg"
    for entry in (b"caf\xe9.jpg", b"id\tcaf\xe9.jpg", b"caf\xe9\ta.jpg"):
        with pytest.raises(DatasetError) as raised:
            listing.from_list(io.BytesIO(b"a.jpg" + end + entry + end), **options)
        assert str(raised.value) == "stdin, line 2: not UTF-8; save the list as UTF-8"


def test_two_names_are_one_file_where_the_file_system_says_so(tmp_path, monkeypatch):
    a, b = tmp_path / "Shard.h5", tmp_path / "shard.h5"
    a.touch()
    assert same_file(a, tmp_path / "x" / ".." / "Shard.h5") and not same_file(a, b)
    os.link(a, b)  # as on a file system that ignores case: another name, the same file
    assert same_file(a, b)


def test_a_lock_where_nothing_locks_leaves_other_processes_files_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
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


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
def test_a_closed_file_of_the_frozen_layers_outputs_is_mapped_no_longer(tmp_path):
    """Windows removes no mapped file, and so the next run of the same process could not make its own."""
    layout = features.Layout("print", 2, (3,), 0)
    features.FeatureFile.make(tmp_path / "f", layout)
    file = features.FeatureFile(tmp_path / "f", layout)
    read = file.read([0, 1])
    assert str(tmp_path / "f") in Path("/proc/self/maps").read_text()
    file.close()
    assert str(tmp_path / "f") not in Path("/proc/self/maps").read_text()
    assert read[0].shape == (2, 3)


def test_outputs_of_the_frozen_layers_that_another_program_has_open_are_an_error_of_one_line(tmp_path, monkeypatch):
    refusal = PermissionError(errno.EACCES, "The process cannot access the file")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(refusal))
    with pytest.raises(TrainingError) as raised:
        features.FeatureFile.make(tmp_path / "f", features.Layout("print", 2, (3,), 0))
    assert str(raised.value) == (
        f"{tmp_path / 'f'}: cannot replace it (The process cannot access the file); is it open in another program?"
    )


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


@pytest.mark.parametrize("arguments", [["info", "{}", "--json"], ["info", "{}"], ["info", "{}", "--failed"]])
def test_redirected_output_is_utf8_whatever_the_code_page(tmp_path, arguments):
    """Windows redirects text in a code page, which lacks most of the world's letters."""
    samples = tuple(Sample(id, id) for id in ODD)
    write_descriptors(
        path := tmp_path / "\u6f22.h5", Dataset("images", samples), np.ones((len(ODD), 1, 4)), failed=[1, 2]
    )
    command = [sys.executable, "-m", "vggfeat", *(word.format(path) for word in arguments)]
    outputs = [
        subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": encoding})
        for encoding in ("utf-8:surrogateescape", "cp1252")
    ]
    assert outputs[1].stdout == outputs[0].stdout
    assert "\U0001f389" in outputs[1].stdout.decode("utf-8")


def test_a_redirected_path_or_error_is_utf8_whatever_the_code_page(tmp_path):
    write_descriptors(path := tmp_path / "\u6f22.h5", Dataset("images", (Sample("a", "a"),)), np.ones((1, 1, 4)))
    out = os.fspath(tmp_path / "\u6f22\udce9.npy")
    for code, stdout, stderr in ((0, f"{out}\n", ""), (1, "", "\u6f22\\udce9.npy")):
        done = subprocess.run(
            [sys.executable, "-m", "vggfeat", "export", path, "-o", out],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        )
        assert (done.returncode, done.stdout) == (code, stdout.encode("utf-8", "surrogateescape")), done.stderr
        assert stderr in done.stderr.decode("utf-8")
        path = out


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


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_torchruns_variables_are_numbers_or_named(variable, monkeypatch):
    usual = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (usual | {variable: "two"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as error:
        launched()
    assert str(error.value) == f"the environment variable {variable} is 'two', not a whole number: unset it"
    monkeypatch.setenv("WORLD_SIZE", "")
    assert launched() is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "0"}, "the environment variable WORLD_SIZE is 0, but it is 1 or more: unset it"),
        ({"LOCAL_WORLD_SIZE": "0"}, "the environment variable LOCAL_WORLD_SIZE is 0, but it is 1 or more: unset it"),
        ({"RANK": "2"}, "the environment variable RANK is 2 of WORLD_SIZE 2: unset both"),
    ],
)
def test_torchruns_variables_make_sense_together(given, message, monkeypatch):
    usual = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (usual | given).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as error:
        launched()
    assert str(error.value) == message


def test_without_a_home_folder_the_cache_is_asked_for(monkeypatch, capsys):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for name in ("VGGFEAT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert run(["download", "--net", "D", "--offline"]) == 2
    assert capsys.readouterr().err == (
        "vggfeat: this user has no home folder to keep downloaded weights in: set VGGFEAT_CACHE to a folder\n"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object", name="torch._C"),
            "vggfeat: not enough memory to load a library (see 'ulimit -v'): libtorch_cpu.so: failed to map segment from "
            "shared object\n",
        ),
        (
            ModuleNotFoundError("No module named 'torchgen'", name="torchgen"),
            "vggfeat: a package is missing or damaged (No module named 'torchgen'): install vggfeat again, or into a "
            "new environment\n",
        ),
    ],
)
def test_a_package_that_cannot_be_loaded_is_no_bug_of_ours(error, line, monkeypatch, capsys):
    def refused(*_):
        raise error

    monkeypatch.setattr("vggfeat.stages.info.info", refused)
    assert run(["info", "a.h5"]) == 1
    assert capsys.readouterr().err == line


def test_the_error_of_a_file_in_use_passes_between_processes():
    error = pickle.loads(pickle.dumps(InUseError(Path("a.pt"), Path("a.x.pt"))))
    assert (type(error), error.path, error.kept) == (InUseError, Path("a.pt"), Path("a.x.pt"))
    assert str(error) == "a.pt: cannot replace it; is it open in another program? The result is in a.x.pt"
