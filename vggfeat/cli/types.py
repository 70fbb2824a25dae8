"""Types of options that several verbs share."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from vggfeat.errors import nearest
from vggfeat.nets.catalog import NETS, net_spec


class Choice(click.Choice):
    """One of several names; the error for another suggests the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = nearest(str(value), map(str, self.choices))
            hint = f"; did you mean {near!r}?" if near else ""
            self.fail(error.message.rstrip(".") + hint, param, ctx)


class Net(click.ParamType):
    """A net of Table 1."""

    name = "net"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Its name as Table 1 has it. Raises UsageError with the nearest for another."""
        return net_spec(value).name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The nets whose names begin so."""
        return [CompletionItem(name) for name in NETS if name.casefold().startswith(incomplete.casefold())]


class Numbers(click.ParamType):
    """A comma-separated list of numbers, such as `256,384,512`; a recipe's list too."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float], metavar: str) -> None:
        self.kind = kind
        self.metavar = metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The placeholder in the help."""
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The tuple of numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no comma-separated list of numbers ({self.metavar})", param, ctx)


SCALES = Numbers(int, "Q,Q,..")
