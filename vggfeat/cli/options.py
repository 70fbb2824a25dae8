"""Options that several verbs share. Flag names follow timm and torchvision."""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import click

from vggfeat._version import __version__
from vggfeat.cli.advice import in_flags
from vggfeat.cli.recipes import options_from_recipe
from vggfeat.cli.types import PATH, Choice, Layer, Net
from vggfeat.datasets import NAMES
from vggfeat.datasets.outage import MAX_READ_FAILURES
from vggfeat.datasets.sample import MAX_MEGAPIXELS
from vggfeat.errors import UsageError
from vggfeat.nets.catalog import DISPLAY_NAMES, WEIGHTS_NAMES
from vggfeat.nets.preprocessing import NAMED
from vggfeat.system.precisions import PRECISIONS, TRAINING_PRECISIONS
from vggfeat.system.text import printable

F = TypeVar("F", bound=Callable[..., Any])


def listed(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


NET_NAMES = listed(list(DISPLAY_NAMES.values()))
"""The nets, as help texts name them."""

GIVEN = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)
"""By a flag, or by a recipe."""

TYPED = (click.core.ParameterSource.COMMANDLINE,)
"""By a flag alone: a recipe may hold what some of its runs need."""


def refuse(
    ctx: click.Context, names: Iterable[str], goes_with: str, sources: Sequence[click.core.ParameterSource] = TYPED
) -> None:
    """Raises UsageError for the first of these parameters that was given.

    They would change nothing in this run, which would hide that another question is answered than the one asked.
    """
    parameters = {parameter.name: parameter for parameter in ctx.command.params}
    for name in names:
        if ctx.get_parameter_source(name) in sources:
            flags = parameters[name].secondary_opts if ctx.params.get(name) is False else parameters[name].opts
            raise UsageError(f"{flags[0]} goes with {goes_with}")


_debug = False


def debugging() -> bool:
    """Whether --debug was given, so that errors show their traceback."""
    return _debug


def _set_debug(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    global _debug  # read by `run` after an error, when click's context is gone
    _debug = _debug or value


class _Notes(logging.Handler):
    """Prints log records on stderr, one per line, parameters as flags."""

    def emit(self, record: logging.LogRecord) -> None:
        text = "\n".join(map(printable, in_flags(self.format(record)).split("\n")))
        print(text, file=sys.stderr)  # a progress bar redirects stderr to above itself


_NOTES = _Notes()


@contextlib.contextmanager
def own_log() -> Iterator[None]:
    """Undoes a command's changes to logging at its end: the process may belong to another program."""
    levels = {name: logging.getLogger(name).level for name in ("vggfeat", "vggfeat.stages.extract", "matplotlib")}
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells where it keeps its fonts
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
    """Sets how much of the log is shown; called for each of the two options, in the order typed."""
    wish: set[str] = ctx.meta.setdefault("vggfeat.log", set())
    wish |= {name for name, given in (("quiet", quiet), ("verbose", verbose)) if given}
    if len(wish) > 1:
        raise UsageError("--quiet and --verbose: choose one")
    logger = logging.getLogger("vggfeat")
    logger.removeHandler(_NOTES)
    logger.setLevel(logging.ERROR if "quiet" in wish else logging.INFO if "verbose" in wish else logging.NOTSET)
    if "verbose" in wish or not logging.getLogger().handlers:  # a program around this one has its own
        logger.addHandler(_NOTES)
    if verbose:
        logger.info("vggfeat %s, Python %s, %s", __version__, platform.python_version(), platform.platform())


def common(command: F) -> F:
    """The options of every verb: --recipe, --json, --quiet, --verbose and --debug."""
    recipe = click.option(
        "--recipe",
        type=PATH,
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=options_from_recipe,
        help="TOML file with a table of options named like this command; flags override it.",
    )
    return recipe(manners(command))


def manners(command: F) -> F:
    """--json, --quiet, --verbose and --debug; the last two do not reach the command."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks."),
        click.option(
            "--quiet",
            is_flag=True,
            callback=_set_quiet,
            help="No progress, tables or notes on stderr, only errors.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
        click.option(
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_verbose,
            help="Also log on stderr what is loaded and how long each part takes.",
        ),
    ):
        command = option(command)
    return command


def offline_option(help: str) -> Callable[[F], F]:
    """--offline; None where it is not given, which leaves it to VGGFEAT_OFFLINE."""
    return click.option("--offline", is_flag=True, default=None, help=f"{help} (also VGGFEAT_OFFLINE)")


def net_options(many: bool = False, to: str = "stack") -> Callable[[F], F]:
    """--net, --weights, --preprocessing, --width, --seed and --offline.

    Args:
        many: --net and --weights may be repeated.
        to: what several nets are for, in the help.
    """

    def decorate(command: F) -> F:
        repeat = f" Repeat to {to} several nets." if many else ""
        for option in (
            offline_option("Never download anything."),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of random weights."),
            click.option(
                "--width",
                type=float,
                default=None,
                help="Factor on every layer's channels, for random weights.  [default: 1]",
            ),
            click.option(
                "--preprocessing",
                type=PATH,
                metavar="NAME|FILE.toml",
                multiple=many,
                default=None,
                help=f"What the weights expect of an image: {', '.join(NAMED)}, or a TOML file with channels, scale, "
                "mean, std and filter.  [default: as the weights say]",
            ),
            click.option(
                "--weights",
                type=PATH,
                metavar="NAME|FILE",
                multiple=many,
                default=("published",) if many else "published",
                help=f"{', '.join(WEIGHTS_NAMES)} (none: random, Glorot), or a file: a vggfeat checkpoint, "
                "torchvision's or timm's .pth or .safetensors, Keras' .h5 or .keras, .caffemodel, .onnx, .mat, .npz or "
                ".npy.  [default: published]",
            ),
            click.option(
                "--net",
                multiple=many,
                metavar="NET",
                default=None,
                type=Net(),
                help=f"{NET_NAMES}; a checkpoint knows its net.  [default: D]{repeat}",
            ),
        ):
            command = option(command)
        return command

    return decorate


def device_options(training: bool = False) -> Callable[[F], F]:
    """--device and --precision. Training shows no int8, and tells whoever gives it what it is for."""
    int8 = "" if training else " int8: faster, on processors with VNNI."

    def decorate(command: F) -> F:
        for option in (
            click.option(
                "--precision",
                type=Choice(PRECISIONS),
                metavar=f"[{'|'.join(TRAINING_PRECISIONS)}]" if training else None,
                default="auto",
                show_default=True,
                help=f"auto: bf16 where the hardware has it natively, else fp32.{int8}",
            ),
            click.option(
                "--device", metavar="DEVICE", default=None, help="cpu, cuda, cuda:1, mps.  [default: the best]"
            ),
        ):
            command = option(command)
        return command

    return decorate


def reading_options(command: F) -> F:
    """--max-read-failures and --workers."""
    for option in (
        click.option("--workers", type=click.IntRange(1), help="Decoding threads.  [default: one per core]"),
        click.option(
            "--max-read-failures",
            type=click.IntRange(0),
            default=MAX_READ_FAILURES,
            show_default=True,
            help="Stop after this many unreadable images in a row (a lost disk); 0: never stop.",
        ),
    ):
        command = option(command)
    return command


megapixels_option = click.option(
    "--max-megapixels",
    type=click.FloatRange(0, min_open=True),
    default=MAX_MEGAPIXELS,
    show_default=True,
    help="Images with more megapixels fail.",
)


def dataset_option(help: str = "", *, default: str | None = None) -> Callable[[F], F]:
    """--dataset. Its names stand in the help text: as a metavar they do not fit 80 columns."""
    return click.option(
        "--dataset",
        type=Choice(NAMES),
        metavar="NAME",
        default=default,
        show_default=default is not None,
        help=f"{listed(NAMES)}. {help}".strip(),
    )


def list_options(command: F) -> F:
    """--list and -0. Without -0 a name with a tab could be id<TAB>path too; such a line is refused."""
    for option in (
        click.option("-0", "nul", is_flag=True, help="The list holds paths separated by NUL (find -print0)."),
        click.option(
            "--list", "list_file", type=PATH, metavar="FILE", help="File or URL of paths: one per line, or id<TAB>path."
        ),
    ):
        command = option(command)
    return command


def layer_option(help: str) -> Callable[[F], F]:
    """--layer, which chooses among the layers of a descriptor file."""
    return click.option("--layer", multiple=True, type=Layer(), metavar="LAYER", help=help)


data_option = click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    envvar="VGGFEAT_DATA",
    default="data",
    show_default=True,
    help="The data root (also VGGFEAT_DATA).",
)


pictures_option = click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    envvar="VGGFEAT_DATA",
    help="The data root with the pictures for the page (also VGGFEAT_DATA).  [default: as the descriptors say]",
)


def recorded_net_options(nets: bool = False) -> Callable[[F], F]:
    """For files that record nets and settings: --weights, --seed, --offline, --device, --precision, --exif and more.

    `nets`: the file may be a net, which has no descriptors to follow.
    """
    exif, precision = ("; for a net, on for your own pictures", "; for a net, auto") if nets else ("", "")

    def decorate(command: F) -> F:
        for option in (
            megapixels_option,
            click.option(
                "--exif/--no-exif",
                default=None,
                help=f"Apply EXIF orientation.  [default: as the descriptors were made{exif}]",
            ),
            click.option("--workers", type=click.IntRange(1), help="Decoding threads.  [default: one per core]"),
            click.option(
                "--precision",
                type=Choice(PRECISIONS),
                default=None,
                help=f"[default: as the descriptors were made{precision}]",
            ),
            click.option(
                "--device", metavar="DEVICE", default=None, help="cpu, cuda, cuda:1, mps.  [default: the best]"
            ),
            offline_option("Never fetch anything."),
            click.option("--seed", type=int, help="Seed of nets with random weights.  [default: the recorded one]"),
            click.option(
                "--weights",
                multiple=True,
                type=PATH,
                metavar="NAME|FILE",
                help="Where the recorded weights are now, one per net; their hash must match.",
            ),
        ):
            command = option(command)
        return command

    return decorate
