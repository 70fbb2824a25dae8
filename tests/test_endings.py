"""How a command ends when its reader or its terminal goes. The kind: an ending that is no failure of the command."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import types

import pytest
from making import striped_tree

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
