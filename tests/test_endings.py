"""How a command ends when its reader or its terminal goes. The kind: an ending that is no failure of the command."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from making import striped_tree

from vggfeat import read_descriptors
from vggfeat.cli.training_display import while_shown
from vggfeat.training import signals as training_signals
from vggfeat.training.state import load_last

CODE = """
import sys, time
import click
from vggfeat.cli import VERBS, main
from vggfeat import cli
{before}
@click.command()
def verb():
    {body}
VERBS["verb"] = "a verb of this test"
cli._Verbs.get_command = lambda self, ctx, name: verb
main(["verb"])
"""

BODIES = {
    "print": "[print('x' * 200) for _ in range(20_000)]",
    "click.echo": "[click.echo('x' * 200) for _ in range(20_000)]",
    "the binary buffer": "[(sys.stdout.buffer.write(b'x' * 200 + b'\\n'), sys.stdout.buffer.flush()) for _ in range(20_000)]",
    "rich": "from rich.console import Console; [Console().print('x' * 70) for _ in range(5_000)]",
    "rows": "from vggfeat.cli.console import print_rows; [print_rows([('x' * 200, 'a', 1.0)]) for _ in range(20_000)]",
    "the last flush alone": "print('x' * 200); print('y' * 7000); time.sleep(0.5)",
}

WAITING = "print('ready', flush=True); [time.sleep(0.05) for _ in range(1200)]"
"""Short sleeps: Python 3.14 hears of a signal that comes just before a sleep when that has ended."""


def start(body: str, before: str = "", **options) -> subprocess.Popen:
    code = CODE.format(body=body, before=before)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("name", BODIES)
def test_a_closed_stdout_ends_quietly_with_exit_code_0(name):
    process = start(BODIES[name])
    if name != "the last flush alone":
        assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""


EXTRACT = ["--net", "A", "--width", "0.015625", "--weights", "none", "--scales", "224", "--device", "cpu", "--no-flip"]


FULL = Path("/dev/full")


def extraction(photos, output, *flags):
    return [sys.executable, "-m", "vggfeat", "extract", str(photos), *EXTRACT, "-o", str(output), *flags]


def test_a_closed_reader_of_the_notes_ends_no_run(photos, tmp_path):
    """`vggfeat extract .. --verbose 2>&1 | head -1`: the rest of the notes is lost, and no row."""
    process = subprocess.Popen(
        extraction(photos, tmp_path / "a.h5", "--verbose"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline().startswith("vggfeat ")
    process.stderr.close()
    assert process.stdout.read() == f"{tmp_path / 'a.h5'}\n"
    assert process.wait(60) == 0
    assert len(read_descriptors(tmp_path / "a.h5").done) == 6


def test_an_error_whose_reader_has_gone_keeps_its_code(tmp_path):
    code = "import sys; sys.stdin.read(); from vggfeat.__main__ import main; sys.argv[1:] = ['info', 'no.h5']; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stderr.close()
    process.stdin.close()
    assert process.wait(60) == 1


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_ends_no_run(photos, tmp_path):
    with FULL.open("w") as full:
        done = subprocess.run(extraction(photos, tmp_path / "a.h5", "--verbose"), stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout.decode()) == (0, f"{tmp_path / 'a.h5'}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes streams")
@pytest.mark.parametrize("closed", ["2>&-", "<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_end_no_run_and_spoil_no_file(photos, tmp_path, closed):
    """The file made would otherwise get a closed stream's number, and what libraries print."""
    output = tmp_path / "a.h5"
    subprocess.run(extraction(photos, output), check=True, capture_output=True)
    whole = output.read_bytes()
    again = f"{shlex.join(extraction(photos, output, '--overwrite'))} {closed}"
    done = subprocess.run(["sh", "-c", again], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else f"{output}\n")
    assert output.read_bytes() == whole


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes streams")
@pytest.mark.parametrize("flags", ["", "-u "])
def test_a_failure_with_stderr_closed_has_its_code(tmp_path, flags):
    command = f"{shlex.quote(sys.executable)} {flags}-m vggfeat info {shlex.quote(str(tmp_path / 'no.h5'))} 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 1


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_forced_colours_draw_no_bars_into_a_log(photos, tmp_path, variable):
    command = extraction(photos, tmp_path / "a.h5")
    done = subprocess.run(command, env=os.environ | {variable: "1"}, capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr and "\x1b[" not in done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_hangup_ends_as_sigterm_and_ctrl_c_do(name):
    number = getattr(signal, name)
    free = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL  # also where the tests run under nohup
    process = start(
        WAITING,
        preexec_fn=lambda: signal.signal(number, free),
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(30) == 130
    assert process.stderr.read().strip() == b"vggfeat: interrupted"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_under_nohup_a_hangup_is_still_ignored():
    process = start(
        "print('ready', flush=True); time.sleep(1.5); print('done', flush=True)",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == b"done\n" and process.wait(30) == 0


def test_a_hangup_whose_terminal_has_gone_has_the_same_code():
    process = start(WAITING, before="import os")
    assert process.stdout.readline() == b"ready\n"
    process.stderr.close()
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 130


def test_training_ends_with_a_checkpoint_when_its_terminal_is_closed(tmp_path):
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    terminal, end = pty.openpty()

    def take_it():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    tree, run = striped_tree(tmp_path / "tree"), tmp_path / "run"
    flags = ["--width", "0.015625", "--S", "224", "--device", "cpu", "--epochs", "10000", "--workers", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vggfeat", "train", "--data", tree, "--dataset", "folder", *flags, "-o", run],
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=take_it,
    )
    os.close(end)
    shown = b""
    while b"1/10000" not in shown:
        shown += os.read(terminal, 10_000)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)  # as the shell does besides
    assert process.wait(60) == 130
    _, _, state = load_last(run / "last.pt")
    assert state.step > 0


@pytest.fixture
def signals(monkeypatch):
    """Windows's signals: SIGBREAK, and no SIGHUP; returns the handlers in force."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
    }
    stand_in = types.SimpleNamespace(
        SIGINT=signal.SIGINT,
        SIGTERM=signal.SIGTERM,
        SIGBREAK=signal.SIGUSR1,  # Signals(number) must know it
        SIG_DFL=signal.SIG_DFL,
        SIG_IGN=signal.SIG_IGN,
        Signals=signal.Signals,
        getsignal=handlers.get,
        signal=lambda number, handler: (handlers[number], handlers.update({number: handler}))[0],
    )
    monkeypatch.setattr(training_signals, "signal", stand_in)
    return handlers


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 here, the stand-in for SIGBREAK")
def test_ctrl_break_on_windows_ends_training_after_the_update(signals):
    before = dict(signals)
    with training_signals.stop_signals() as stop:
        signals[signal.SIGUSR1](signal.SIGUSR1, None)
        assert stop.asked
        assert signals[signal.SIGUSR1] == signal.SIG_DFL, "a second one acts as usual"
    assert signals == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_training_under_nohup_goes_on_after_a_hangup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with training_signals.stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_a_terminal_that_is_gone_is_passed_over_in_silence():
    with while_shown():
        raise OSError(errno.EIO, "a closed terminal")
    for number in (errno.ENOSPC, errno.EPIPE, errno.EACCES):
        with pytest.raises(OSError), while_shown():
            raise OSError(number, "anything else")
