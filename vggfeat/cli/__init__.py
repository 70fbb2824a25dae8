"""The command line. Each verb has a file, imported when the verb is called; an error is one line on stderr."""

from __future__ import annotations

import _thread
import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click

from vggfeat._version import __version__
from vggfeat.cli.advice import in_flags, told
from vggfeat.cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE
from vggfeat.cli.options import debugging, own_log
from vggfeat.datasets.decoding import THREAD_PREFIX
from vggfeat.errors import UsageError, VggfeatError, nearest, unknown_name
from vggfeat.system.launch import launched
from vggfeat.system.text import write_utf8

VERBS = {
    "nets": "Tables 1 and 2: nets, depth, parameters, published weights.",
    "download": "Fetch published weights or a data set, checked against its hash.",
    "train": "Train a net by the paper's recipe.",
    "evaluate": "Top-1 and top-5 errors of nets, on ILSVRC or your own classes.",
    "localise": "Predict boxes in ILSVRC's images and score them.",
    "extract": "Turn images into descriptors, in one HDF5 file.",
    "merge": "Join the shards of one extraction into one file.",
    "export": "Write descriptors as a NumPy, CSV, MATLAB or Parquet file, for other tools.",
    "svm": "Fit linear SVMs on descriptors and score them.",
    "similar": "The most similar images: neighbours of pictures, or near-duplicates.",
    "predict": "Classify new images with a trained net or a fitted model.",
    "info": "Describe a descriptor file, checkpoint or model and its origin.",
    "bench": "Measure this machine: extraction, training and SVM fits.",
    "quickstart": "Try it: train, extract and classify small pictures, offline.",
}
"""Verb -> its line in the help, in the order of a user's work. `--help` imports no verb's file."""

SPINS = "1000"
"""How often torch's idle threads poll for work before they sleep. With libgomp's default of 300,000, two commands on
the same two cores took four times as long as one after the other (42 s; 8 s with 1,000). One command alone gains where
NNPACK's threads want the cores: a tenth, for net D in fp32 at Q = 256."""


class _ClosedStdoutError(Exception):
    """Stdout is a closed pipe. No OSError, which click would turn into exit code 1."""


def closed_pipe(error: OSError, platform: str = sys.platform) -> bool:
    """Whether the reader of a pipe has gone; Windows then says "Invalid argument" and names no file."""
    if isinstance(error, BrokenPipeError):
        return True
    return platform == "win32" and error.errno == errno.EINVAL and error.filename is None


class _Verbs(click.Group):
    """A group that imports a verb's file when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"vggfeat.cli.{name}"), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if not ctx.resilient_parsing and args and args[0] not in VERBS and not args[0].startswith("-"):
            raise unknown_name("command", args[0], VERBS)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            _check_given_once(command, rest)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if not closed_pipe(error):
                raise
            raise _ClosedStdoutError from error
        except KeyboardInterrupt as error:  # click would fail to print where the terminal has gone
            with contextlib.suppress(OSError):
                click.echo(file=sys.stderr)  # closes the line of a terminal's ^C
            raise click.Abort from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


STACKED = ("--net", "--weights", "--layer", "--preprocessing")
"""Flags that some verbs repeat, to stack what they name. Of any other flag the last one counts, as everywhere."""


def _check_given_once(command: click.Command, args: list[str]) -> None:
    """Raises UsageError for such a flag repeated where one counts, since the others would be dropped in silence."""
    words = args[: args.index("--")] if "--" in args else args
    for flag in (flag for param in command.params for flag in param.opts if flag in STACKED):
        several = any(flag in param.opts and getattr(param, "multiple", False) for param in command.params)
        count = sum(word == flag or word.startswith(f"{flag}=") for word in words)
        if count > 1 and not several:
            raise UsageError(f"{flag} is given {count} times: {command.name} takes one")


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    subcommand_metavar="[COMMAND] [ARGS]...",  # click 8.1 says that the command must be given
)
@click.version_option(__version__, prog_name="vggfeat")
@click.pass_context
def vggfeat(ctx: click.Context) -> None:
    """VGG nets for transfer learning: image descriptors, linear SVMs, the paper's benchmarks.

    Results go to stdout (a path, or JSON with --json), everything else to stderr. Exit codes: 0 done, 1 failed,
    2 wrong usage, 3 done but some images were skipped, 130 interrupted.

    \b
    Example:
      find photos -name '*.jpg' |
        vggfeat extract --net D --scales 256,384,512 --aggregate stack
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        write_utf8(stream)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop ends like Ctrl-C
    for name in ("SIGHUP", "SIGBREAK"):  # so does a closed terminal; Windows sends SIGBREAK
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = _raise_interrupts_again
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # libgomp reads it when torch is imported
    code = run(args)
    if _cannot_shut_down():
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _cannot_shut_down() -> bool:
    """Whether running threads would hang or crash a normal shutdown of the interpreter.

    A decoding thread whose read never returns would keep it waiting. torch.distributed's C++ threads may hold tensors
    even after their group is destroyed, and abort the process (SIGABRT) when the interpreter is gone.
    """
    try:
        together = launched() is not None
    except UsageError:  # told already
        together = False
    return together or any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate())


def run(args: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code; every error is one line on stderr.

    A verb finds the words of the line in `ctx.obj`.
    """
    args = sys.argv[1:] if args is None else args
    try:
        with own_log():
            code = vggfeat.main(args, prog_name="vggfeat", standalone_mode=False, obj=args)
        sys.stdout.flush()
    except (_ClosedStdoutError, BrokenPipeError, SystemExit) as error:
        # rich turns a broken pipe into SystemExit.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        return _without_reader()
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", INTERRUPTED)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except Exception as error:
        if isinstance(error, OSError) and closed_pipe(error):
            return _without_reader()
        if debugging():
            raise
        return _report(*_explained(error, args))
    return code if isinstance(code, int) else DONE


def _without_reader() -> int:
    """The exit code where the reader of stdout has gone (`vggfeat nets | head -1`), which is not a failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter's last flush is quiet too
    return DONE


def _explained(error: Exception, args: list[str]) -> tuple[str, int]:
    """What to tell the user about an error, and the exit code."""
    if isinstance(error, click.ClickException):
        hint = getattr(error, "ctx", None)
        see = f" (see '{hint.command_path} --help')" if hint else ""
        said = _no_such_option(error, args) if isinstance(error, click.NoSuchOption) else error.format_message()
        return said.rstrip(".") + see, USAGE
    if isinstance(error, VggfeatError):
        return told(error), USAGE if isinstance(error, UsageError) else FAILED
    if isinstance(error, OSError):  # such as a full disk
        return f"{error.filename or 'output'}: {error.strerror or error}", FAILED
    if isinstance(error, ImportError):
        return _unloaded(error), FAILED
    of_machine = _of_machine(error)
    if of_machine is not None:
        return of_machine, FAILED
    return f"{type(error).__name__}: {error} (a bug in vggfeat; --debug shows where)", FAILED


def _unloaded(error: ImportError) -> str:
    """What to tell about a package that Python cannot load, such as one whose libraries do not fit into the memory."""
    if "failed to map" in str(error) or "allocate memory" in str(error):
        return f"not enough memory to load a library (see 'ulimit -v'): {error}"
    return f"a package is missing or damaged ({error}): install vggfeat again, or into a new environment"


def _of_machine(error: Exception) -> str | None:
    """What to tell about an error of the memory or of a device; None for any other one."""
    if isinstance(error, MemoryError):
        why = f" ({error})" if str(error) else ""
        return f"not enough memory{why}: end other programs, or give it less at a time"
    if "torch" not in sys.modules:
        return None
    from vggfeat.system.devices import fault

    said = fault(error)
    return None if said is None else in_flags(said)


def _no_such_option(error: click.NoSuchOption, args: list[str]) -> str:
    """The error with the nearest option, in the same words for every version of click.

    click reads `-net` as -n, -e and -t.
    """
    said, typed = f"No such option {error.option_name!r}", error.option_name
    if error.ctx is None:
        return said
    flags = [flag for param in error.ctx.command.params for flag in param.opts if flag.startswith("--")]
    if not typed.startswith("--"):
        typed = f"-{next((word for word in args if word.startswith(typed) and len(word) > 2), '')}"
    near = nearest(typed, flags)
    return f"{said}; did you mean {near!r}?" if near else said


def _raise_interrupts_again(unraisable: Any) -> None:
    """Repeats an interrupt that Python dropped because it came inside a weak reference's callback.

    It comes again as SIGTERM, which `main` handles even where a shell ignores SIGINT (`command &`).
    """
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main, [signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(unraisable)


def _report(message: str, code: int) -> int:
    """Prints an error as one line, with line breaks replaced and control characters made visible."""
    line = "".join(c if c.isprintable() else " " if c == "\n" else ascii(c)[1:-1] for c in message)
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(f"vggfeat: {line}", file=sys.stderr)
    return code
