"""`--recipe FILE` of every command except train: options from the table of a TOML file named like the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vggfeat.cli.types import Numbers
from vggfeat.errors import RecipeError, UsageError, unknown_name
from vggfeat.training.recipe import read_toml


def options_from_recipe(ctx: click.Context, _param: click.Parameter, file: str | None) -> None:
    """Takes the command's defaults from its table in the file; flags and the environment override them.

    Keys are the long names of options (`scales`, `keep-scales`) and the names of arguments (`files`, `paths`); paths
    are relative to the working directory, as on the command line. One file may have a table for each command.

    Raises RecipeError for an unreadable file, an unknown table or key, and a bad value.
    """
    if file is None:
        return
    command = str(ctx.command.name)
    tables = read_toml(Path(file))
    _check_tables(ctx, file, tables)
    if command not in tables:
        there = ", ".join(f"[{name}]" for name in tables) or "nothing"
        raise RecipeError(f"{file}: no table [{command}]; it has {there}")
    where = f"{file}: [{command}]"
    keys = {key: param for param in ctx.command.params if (key := _key(param))}
    defaults: dict[str, Any] = {}
    for key, value in tables[command].items():
        if key not in keys:
            raise RecipeError(f"{where} {unknown_name('option', key, keys)}")
        try:
            defaults[str(keys[key].name)] = _value(ctx, keys[key], value)
        except (click.BadParameter, UsageError) as error:
            reason = error.message if isinstance(error, click.BadParameter) else str(error)
            raise RecipeError(f"{where} {key}: {reason.rstrip('.')}") from None
    ctx.default_map = defaults


def _check_tables(ctx: click.Context, file: str, tables: dict[str, Any]) -> None:
    """Raises RecipeError unless every entry of the file is a table named like a command."""
    group = ctx.find_root().command
    verbs = group.list_commands(ctx) if isinstance(group, click.Group) else list(tables)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise RecipeError(
                f"{file}: {name!r} is outside of any table: put options into a table named like their command, such as "
                f"[{ctx.command.name}]; a training recipe is for vggfeat train"
            )
        if name not in verbs:
            raise RecipeError(f"{file}: {unknown_name('command', name, verbs)}")


def _key(param: click.Parameter) -> str | None:
    """A recipe's key for an option or argument; None if it has no long name, and for --recipe."""
    if isinstance(param, click.Argument):
        return param.name
    return next((flag[2:] for flag in param.opts if flag.startswith("--") and flag != "--recipe"), None)


def _value(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Converts a TOML value to command-line text and checks it. Raises click.BadParameter."""
    if getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise click.BadParameter("expected true or false")
        return value
    several = param.multiple if isinstance(param, click.Option) else param.nargs == -1
    lists = isinstance(param.type, Numbers)
    # For an option that takes lists of numbers, [256, 384] is one list and [[256], [352, 384]] are two.
    split = isinstance(value, list) and (not lists or all(isinstance(entry, list | str) for entry in value))
    texts = [_text(entry, lists) for entry in (value if several and split else [value])]
    given = texts if several else texts[0]
    param.type_cast_value(ctx, given)
    return given


def _text(entry: Any, lists: bool = False) -> str:
    """A value as command-line text. Raises click.BadParameter if it has no such form."""
    if lists and isinstance(entry, list):
        return ",".join(map(_text, entry))
    if isinstance(entry, bool) or not isinstance(entry, str | int | float):
        raise click.BadParameter("expected a text or a number")
    return str(entry)
