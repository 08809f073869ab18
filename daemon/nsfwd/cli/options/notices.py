"""Lines for people: notices on standard error, results on standard output, without a control character of a name."""

from __future__ import annotations

import click

from nsfwd.escaping import visible


def notice(text: object) -> None:
    """Write a line to standard error, with the program's name in front."""
    click.echo(f"nsfwd: {visible(str(text))}", err=True)


def result(text: str) -> None:
    """Write a line to standard output."""
    click.echo(visible(text))
