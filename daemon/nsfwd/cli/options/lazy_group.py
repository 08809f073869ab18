"""Command groups: subcommands are listed with whole sentences, and imported when they are used.

Help and completion must be quick, and a client must not load the daemon's modules. Knows no verb.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_WHOLE = 1000
"""Longest line of help in a list; click would cut it at the width of the terminal, in the middle of a sentence."""


class Group(click.Group):
    """A group that lists its commands with the first sentence of their help."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"subcommand_metavar": "VERB ...", **options})

    def lines(self, context: click.Context) -> list[tuple[str, str]]:
        """Return each command with its line of help."""
        return [(name, self.commands[name].get_short_help_str(_WHOLE)) for name in self.list_commands(context)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first word.

        Raises:
            click.UsageError: the verb is unknown; the message names a similar one.
        """
        word, names = args[0], self.list_commands(ctx)
        if word in names or word.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        like = get_close_matches(word, names, 1)
        raise click.UsageError(f"unknown verb {word!r}{f'; did you mean {like[0]}?' if like else ''}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands."""
        with formatter.section("Verbs"):
            formatter.write_dl(self.lines(ctx))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands, or options, that begin with ``incomplete``."""
        from click.shell_completion import CompletionItem

        named = [CompletionItem(name, help=text) for name, text in self.lines(ctx) if name.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)


class LazyGroup(Group):
    """A group that imports a command when it is used.

    Args:
        table: command -> its place (``module:name``), and its line of help.
    """

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return them in the order of their table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._table:
            return None
        module, _, name = self._table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def lines(self, context: click.Context) -> list[tuple[str, str]]:
        """Return each command with its line of help, without importing one."""
        return [(name, text) for name, (_, text) in self._table.items()]
