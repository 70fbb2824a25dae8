"""Option types that several verbs share."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from vggfeat.errors import nearest, unknown_name
from vggfeat.inference.settings import POOLINGS
from vggfeat.nets.catalog import NETS, net_spec
from vggfeat.nets.layers import LAYERS, POOLING_MARK
from vggfeat.nets.sources import named_net


class Several(click.Argument):
    """An argument of any number of words, which a recipe file may give where the command line has none.

    click itself looks there from 8.2 on.
    """

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, Any]:
        """The words, and where they come from."""
        value, source = super().consume_value(ctx, opts)
        if value in (None, ()) and (given := ctx.lookup_default(str(self.name))):
            return given, ParameterSource.DEFAULT_MAP
        return value, source


class _PathName(click.types.StringParamType):
    """The name of a file or folder, or a URL, taken as it is; a shell completes it among the files."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leaves it to the shell."""
        return [CompletionItem(incomplete, type="file")]


PATH = _PathName()


class Choice(click.Choice):
    """One of several names; for another name the error suggests the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = nearest(str(value), map(str, self.choices))
            hint = f"; did you mean {near!r}?" if near else ""
            self.fail(error.message.rstrip(".") + hint, param, ctx)


class Layer(Choice):
    """A layer's name, perhaps with a pooling of its map: `pool5:max`."""

    def __init__(self) -> None:
        super().__init__(LAYERS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The layer's name, with its pooling where one is given. Raises UsageError for an unknown pooling."""
        name, mark, pooling = str(value).partition(POOLING_MARK)
        layer = super().convert(name, param, ctx)
        if mark and pooling not in POOLINGS:
            raise unknown_name("pooling", pooling, POOLINGS)
        return layer + mark + pooling


class Net(click.ParamType):
    """A net of Table 1."""

    name = "net"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The net's name as in Table 1. Raises UsageError for an unknown one, with the nearest name, or --weights."""
        takes_files = ctx is not None and any(other.name == "weights" for other in ctx.command.params)
        return (named_net if takes_files else net_spec)(value).name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The nets whose names start with `incomplete`."""
        return [CompletionItem(name) for name in NETS if name.casefold().startswith(incomplete.casefold())]


class Numbers(click.ParamType):
    """A comma-separated list of numbers, such as `256,384,512`; in a recipe a list."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float], metavar: str) -> None:
        self.kind = kind
        self.metavar = metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The placeholder in the help."""
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of numbers ({self.metavar})", param, ctx)


SCALES = Numbers(int, "Q,Q,..")
