"""Option decorators that several verbs share. Flag names follow timm and torchvision."""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from vggfeat._version import __version__
from vggfeat.cli.recipes import options_from_recipe
from vggfeat.cli.types import Choice, Net
from vggfeat.datasets import NAMES
from vggfeat.errors import UsageError
from vggfeat.system.precisions import PRECISIONS

F = TypeVar("F", bound=Callable[..., Any])

_debug = False


def debugging() -> bool:
    """Whether --debug was given: then errors show their traceback."""
    return _debug


def _set_debug(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    global _debug  # the one switch that must outlive click's context: main() reads it after the context is gone
    _debug = _debug or value


class _Notes(logging.Handler):
    """The log on stderr, a line a record."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)  # where a progress bar has taken stderr over, above the bar


_NOTES = _Notes()


@contextlib.contextmanager
def own_log() -> Iterator[None]:
    """What a command does to the log ends with it: its process may be another program's."""
    levels = {name: logging.getLogger(name).level for name in ("vggfeat", "vggfeat.stages.extract")}
    try:
        yield
    finally:
        logging.getLogger("vggfeat").removeHandler(_NOTES)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _set_quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    _say(ctx, quiet=value)
    return value


def _set_verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    _say(ctx, verbose=value)


def _say(ctx: click.Context, quiet: bool = False, verbose: bool = False) -> None:
    """Sets how much of the log is shown. It is asked once an option, in the user's order, and adds what it hears."""
    wish: set[str] = ctx.meta.setdefault("vggfeat.log", set())
    wish |= {name for name, given in (("quiet", quiet), ("verbose", verbose)) if given}
    if len(wish) > 1:
        raise UsageError("--quiet and --verbose: choose one")
    logger = logging.getLogger("vggfeat")
    logger.removeHandler(_NOTES)
    logger.setLevel(logging.ERROR if "quiet" in wish else logging.INFO if "verbose" in wish else logging.NOTSET)
    if "verbose" in wish:
        logger.addHandler(_NOTES)
    if verbose:
        logger.info("vggfeat %s, Python %s, %s", __version__, platform.python_version(), platform.platform())


def common(command: F) -> F:
    """What every verb takes: --recipe, --json, --quiet, --verbose and --debug."""
    recipe = click.option(
        "--recipe",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=options_from_recipe,
        help="TOML with options in a table of this command's name; flags override it.",
    )
    return recipe(manners(command))


def manners(command: F) -> F:
    """--json, --quiet, --verbose and --debug; --debug never reaches the command."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks."),
        click.option(
            "--quiet",
            is_flag=True,
            callback=_set_quiet,
            help="No progress, tables or notes on stderr; errors still show.",
        ),
        click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout."),
        click.option(
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_verbose,
            help="Also say on stderr what is loaded and how long each part takes.",
        ),
    ):
        command = option(command)
    return command


def net_options(many: bool = False, to: str = "stack") -> Callable[[F], F]:
    """--net, --weights, --width, --seed and --offline; with `many`, --net and --weights may repeat.

    `to`: what several nets are for, in the help.
    """

    def decorate(command: F) -> F:
        repeat = f" Repeat to {to} several nets." if many else ""
        for option in (
            click.option("--offline", is_flag=True, envvar="VGGFEAT_OFFLINE", help="Never fetch anything."),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of random weights."),
            click.option(
                "--width", type=float, default=1.0, show_default=True, help="Channel factor of random weights' nets."
            ),
            click.option(
                "--weights",
                metavar="NAME|FILE",
                multiple=many,
                default=("published",) if many else "published",
                help="published, oxford, oxford-keras, torchvision, none (random, Glorot), or a file: a vggfeat "
                "checkpoint, torchvision's .pth, Keras' .h5 or a .caffemodel.  [default: published]",
            ),
            click.option(
                "--net",
                multiple=many,
                metavar="NET",
                default=None,
                type=Net(),
                help="A, A-LRN, B, C, D, E or shallow-B; a checkpoint knows its own.  [default: D]" + repeat,
            ),
        ):
            command = option(command)
        return command

    return decorate


def device_options(command: F) -> F:
    """--device and --precision."""
    for option in (
        click.option(
            "--precision",
            type=Choice(PRECISIONS),
            default="auto",
            show_default=True,
            help="auto: bf16 where the hardware has it natively, else fp32.",
        ),
        click.option("--device", metavar="DEVICE", default=None, help="cpu, cuda, cuda:1, mps.  [default: the best]"),
    ):
        command = option(command)
    return command


def reading_options(command: F) -> F:
    """--max-read-failures and --workers."""
    for option in (
        click.option("--workers", type=click.IntRange(1), help="Decoding threads.  [default: one a core]"),
        click.option(
            "--max-read-failures",
            type=click.IntRange(0),
            default=100,
            show_default=True,
            help="Images in a row that cannot be read, as when a disk has gone, before the run stops; 0: never.",
        ),
    ):
        command = option(command)
    return command


def dataset_option(help: str = "", *, default: str | None = None) -> Callable[[F], F]:
    """--dataset; the help text has its names, which do not fit 80 columns as click lists them."""
    return click.option(
        "--dataset",
        type=Choice(NAMES),
        metavar="NAME",
        default=default,
        show_default=default is not None,
        help=f"{', '.join(NAMES[:-1])} or {NAMES[-1]}. {help}".strip(),
    )


data_option = click.option(
    "--data",
    metavar="DIR",
    envvar="VGGFEAT_DATA",
    default="data",
    show_default=True,
    help="The data root (also VGGFEAT_DATA).",
)
