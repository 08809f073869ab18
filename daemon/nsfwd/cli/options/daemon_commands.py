"""``nsfwd ping``, ``ready``, ``stats`` and ``reload``: one question to the daemon, its answer on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nsfwd.cli.options import exit_codes
from nsfwd.escaping import visible

if TYPE_CHECKING:
    from nsfwd.client import Client

_Command = TypeVar("_Command", bound=Callable[..., Any])

TIMEOUT = 10.0
"""Seconds of silence after which a daemon that only has to say how it is counts as gone."""

RELOAD_TIMEOUT = 600.0
"""Seconds that a new engine may take to load, warm and pass its goldens."""


def connect_option(command: _Command) -> _Command:
    """Add ``--connect``, which every command that talks to the daemon has."""
    return click.option(
        "--connect",
        metavar="ADDR",
        callback=_named,
        help="The daemon: tcp:HOST:PORT or unix:/path, or several apart by commas.  [default: $NSFWD_CONNECT, else the"
        " system's socket, the user's socket, then tcp:127.0.0.1:1235]",
    )(command)


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse the value of a variable that is not set: who names a daemon means no other."""
    if value == "":
        raise click.BadParameter("it is empty: a variable that is not set?")
    return value


def _client(connect: str | None, timeout: float = TIMEOUT) -> Client:
    from nsfwd.client import Client

    return Client(connect, timeout=timeout, patience=0)


@click.command()
@connect_option
def ping(connect: str | None) -> None:
    """Ask whether a daemon is there; exit 69 when none is.

    Example: nsfwd ping --connect unix:/run/nsfwd/nsfwd.sock
    """
    with _client(connect) as client:
        seconds = client.ping()
        click.echo(f"{client.address} answered in {seconds * 1000:.1f} ms")


@click.command()
@connect_option
def ready(connect: str | None) -> int:
    """Ask whether it can score: exit 0 when ready, 1 when not yet, 69 when no daemon answers.

    Example: until nsfwd ready; do sleep 1; done
    """
    with _client(connect) as client:
        state = client.ready()
    if state.get("ready"):
        click.echo("ready")
        if state.get("why"):
            click.echo(visible(f"nsfwd: {state['why']}"), err=True)
        return exit_codes.OK
    click.echo(visible(f"not ready: {state.get('why') or 'it does not say why'}"))
    return exit_codes.FAILED


@click.command()
@connect_option
@click.option("--poison", is_flag=True, help="Show the files that crashed decoders and are not decoded again.")
@click.option("--clear", is_flag=True, help="With --poison: forget them. For root and the daemon's own user.")
def stats(connect: str | None, *, poison: bool, clear: bool) -> None:
    """Show its counters as JSON.

    Example: nsfwd stats | jq .server
    """
    if clear and not poison:
        raise click.UsageError("--clear belongs to --poison")
    with _client(connect) as client:
        if clear:
            click.echo(f"forgot {client.poison(clear=True)['cleared']} files")
            return
        answer = client.poison()["poison"] if poison else client.stats()
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


@click.command()
@connect_option
def reload(connect: str | None) -> None:
    """Have it take up changed settings and bundles. No request is dropped.

    Only root and the daemon's own user may, over its Unix socket. Exit 0 when the new ones serve, 1 when they are
    refused: then the old ones serve on, and the message says what to mend.

    Example: nsfwd config check && nsfwd reload
    """
    with _client(connect, RELOAD_TIMEOUT) as client:
        answer = client.reload()
    waited = "; requests waited for the new engine" if answer.get("mode") == "drain" else ""
    for name, identity in answer["models"].items():
        policy = f", policy {policies[name]}" if (policies := answer.get("policies")) else ""
        click.echo(f"{name} = {identity}{policy}, after {answer['seconds']:.1f} s{waited}")
