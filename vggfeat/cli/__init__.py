"""The command line: one file per verb, imported only when its verb is called; errors become one line on stderr."""

from __future__ import annotations

import _thread
import importlib
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click

from vggfeat._version import __version__
from vggfeat.cli.advice import told
from vggfeat.cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE
from vggfeat.cli.options import debugging, own_log
from vggfeat.datasets.decoding import DECODING
from vggfeat.errors import UsageError, VggfeatError, nearest, unknown_name
from vggfeat.system.launch import launched

VERBS = {
    "nets": "Table 1 and 2: nets, depth, parameters, published weights.",
    "download": "Fetch published weights or a data set, checked against its hash.",
    "train": "Train a net as the paper did.",
    "evaluate": "Top-1 and top-5 errors of nets, on ILSVRC or your own classes.",
    "localise": "Boxes of objects in ILSVRC's images, and localisation error.",
    "extract": "Images to descriptors, in one HDF5 file.",
    "merge": "Join the shards of one extraction into one file.",
    "export": "Descriptors as a NumPy or CSV file, for other tools.",
    "svm": "Fit linear SVMs on descriptors and score them.",
    "similar": "The most similar images: neighbours of pictures, or near-duplicates.",
    "predict": "Score new images with a fitted model.",
    "info": "What a descriptor file, checkpoint or model is, and how it was made.",
    "bench": "Measure this machine: extraction, training and SVM fits.",
    "quickstart": "The whole road, offline, in about a minute: train, extract, svm.",
}
"""One line a verb, in the order of a user's work: `--help` imports none of their files."""

SPINS = "1000"
"""How many times torch's idle threads look for work before they sleep. With libgomp's own 300,000 two commands on the
same two cores took four times as long as one after the other (42 s; 8 s with 1,000), and one alone is no faster."""


class _Verbs(click.Group):
    """A group that imports a verb's file only when that verb is called."""

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
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vggfeat")
def vggfeat() -> None:
    """VGG nets for transfer learning: dense multi-scale descriptors, linear SVMs, the paper's protocols.

    Results go to stdout (a path, or JSON with --json), everything else to stderr. Exit codes: 0 done, 1 failed,
    2 wrong usage, 3 done but some images were skipped, 130 interrupted.

    \b
    Example:
      find photos -name '*.jpg' |
        vggfeat extract --net D --scales 256,384,512 --aggregate stack
    """


def main(args: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop ends as tidily as Ctrl-C
    sys.unraisablehook = _dropped
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # libgomp reads it when torch is imported
    code = run(args)
    if _ends_badly():
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _ends_badly() -> bool:
    """Whether to leave the interpreter as it is, for it could not be taken down around the threads there are.

    A read that never returns would keep it from ending. torch.distributed's C++ threads may still hold tensors after
    their group is destroyed, and abort the process (SIGABRT) when they need an interpreter that is gone.
    """
    return launched() is not None or any(thread.name.startswith(DECODING) for thread in threading.enumerate())


def run(args: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code; every error is one line on stderr."""
    try:
        with own_log():
            code = vggfeat.main(args, prog_name="vggfeat", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our stdout has gone (`vggfeat nets | head -1`): not our failure. click and rich turn a broken
        # pipe into SystemExit. Stdout is pointed at nothing, so that the interpreter's own flush stays quiet too.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", INTERRUPTED)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        if debugging():
            raise
        hint = getattr(error, "ctx", None)
        advice = f" (see '{hint.command_path} --help')" if hint else ""
        meant = _long_option(error, sys.argv[1:] if args is None else args)
        return _report(error.format_message().rstrip(".") + meant + advice, USAGE)
    except UsageError as error:
        if debugging():
            raise
        return _report(told(error), USAGE)
    except VggfeatError as error:
        if debugging():
            raise
        return _report(told(error), FAILED)
    except OSError as error:  # the system's word where no stage had one of its own: a full disk, say
        if debugging():
            raise
        return _report(f"{error.filename or 'output'}: {error.strerror or error}", FAILED)
    except Exception as error:
        if debugging():
            raise
        return _report(f"{type(error).__name__}: {error} (a defect of vggfeat; --debug shows where)", FAILED)
    return code if isinstance(code, int) else DONE


def _long_option(error: click.ClickException, args: list[str]) -> str:
    """`; did you mean '--net'?` for `-net`, which click reads as -n, -e and -t; empty for other errors."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None or error.option_name.startswith("--"):
        return ""
    flags = [flag for param in error.ctx.command.params for flag in param.opts if flag.startswith("--")]
    typed = next((word for word in args if word.startswith(error.option_name) and len(word) > 2), None)
    near = None if typed is None else nearest(f"-{typed}", flags)
    return f"; did you mean {near!r}?" if near else ""


def _dropped(unraisable: Any) -> None:
    """Python drops an exception inside of a weak reference's callback: an interrupt then comes again, soon.

    As SIGTERM, to which `main` listens even where a shell has SIGINT ignored (`command &`).
    """
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main, [signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(unraisable)


def _report(message: str, code: int) -> int:
    """Prints the one line that an error is, line breaks and control characters made visible."""
    line = "".join(c if c.isprintable() else " " if c == "\n" else ascii(c)[1:-1] for c in message)
    print(f"vggfeat: {line}", file=sys.stderr)
    return code
