"""``nsfwd completion``: the script by which a shell completes verbs, flags and paths."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")

VARIABLE = "_NSFWD_COMPLETE"
"""Set by the script when it asks nsfwd for completions."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      nsfwd completion bash > ~/.local/share/bash-completion/completions/nsfwd
      nsfwd completion zsh > ~/.zfunc/_nsfwd
      nsfwd completion fish > ~/.config/fish/completions/nsfwd.fish
    """
    from click.shell_completion import get_completion_class

    from nsfwd.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(cli, {}, "nsfwd", VARIABLE)
    click.echo(kind.source_template % source.source_vars())


def complete(instruction: str) -> int:
    """Answer the script of a shell."""
    from click.shell_completion import shell_complete

    from nsfwd.cli.main import cli

    return shell_complete(cli, {}, "nsfwd", VARIABLE, instruction)
