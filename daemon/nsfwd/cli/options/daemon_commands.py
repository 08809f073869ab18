"""``nsfwd ping``, ``ready``, ``stats`` and ``reload``: one question to the daemon, its answer on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.notices import notice, result
from nsfwd.escaping import escape_json

if TYPE_CHECKING:
    from nsfwd.client import Client

_Command = TypeVar("_Command", bound=Callable[..., Any])

TIMEOUT = 10.0
"""Seconds without an answer to a simple operation after which the daemon counts as gone."""

RELOAD_TIMEOUT = 600.0
"""Seconds that a new engine may take to load, warm and pass its goldens."""


def connect_option(command: _Command) -> _Command:
    """Add ``--connect``, which every command that talks to the daemon has."""
    return click.option(
        "--connect",
        metavar="ADDR",
        callback=_named,
        help="Address of the daemon: tcp:HOST:PORT or unix:/path, or several, separated by commas.  [default:"
        " $NSFWD_CONNECT, else the system's socket, the user's socket, then tcp:127.0.0.1:1235]",
    )(command)


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse the empty value of an unset variable: it must not lead to another daemon."""
    if value == "":
        raise click.BadParameter("the address is empty: is a variable unset?")
    return value


def _client(connect: str | None, timeout: float = TIMEOUT) -> Client:
    from nsfwd.client import Client

    return Client(connect, timeout=timeout, patience=0)


@click.command()
@connect_option
def ping(connect: str | None) -> None:
    """Check that a daemon is running; exit 69 when none answers.

    Example: nsfwd ping --connect unix:/run/nsfwd/nsfwd.sock
    """
    with _client(connect) as client:
        seconds = client.ping()
        click.echo(f"{client.address} answered in {seconds * 1000:.1f} ms")


@click.command()
@connect_option
def ready(connect: str | None) -> int:
    """Check that the daemon is ready to score: exit 0 when ready, 1 when not, 69 when no daemon answers.

    Example: until nsfwd ready; do sleep 1; done
    """
    with _client(connect) as client:
        state = client.ready()
    if state.get("ready"):
        click.echo("ready")
        if state.get("why"):
            notice(state["why"])
        return exit_codes.OK
    result(f"not ready: {state.get('why') or 'no reason given'}")
    return exit_codes.FAILED


@click.command()
@connect_option
@click.option("--poison", is_flag=True, help="Show the files that crashed decoders and are not decoded again.")
@click.option("--clear", is_flag=True, help="With --poison: forget these files. For root and the daemon's own user.")
def stats(connect: str | None, *, poison: bool, clear: bool) -> None:
    """Show the counters of the daemon as JSON.

    Example: nsfwd stats | jq .server
    """
    if clear and not poison:
        raise click.UsageError("--clear needs --poison")
    with _client(connect) as client:
        if clear:
            click.echo(f"forgot {client.poison(clear=True)['cleared']} files")
            return
        answer = client.poison()["poison"] if poison else client.stats()
        click.echo(escape_json(json.dumps(answer, indent=2, ensure_ascii=False)))


@click.command()
@connect_option
def reload(connect: str | None) -> None:
    """Reload settings and bundles. No request is dropped.

    Only for root and the daemon's own user, over its Unix socket. Exit 0 when the new configuration is in force, 1 when
    it was refused: the daemon then still serves the previous one, and the message names the problem.

    Example: nsfwd config check && nsfwd reload
    """
    with _client(connect, RELOAD_TIMEOUT) as client:
        answer = client.reload()
    waited = "; requests waited for the new engine" if answer.get("mode") == "drain" else ""
    for name, identity in answer["models"].items():
        policy = f", policy {policies[name]}" if (policies := answer.get("policies")) else ""
        click.echo(f"{name} = {identity}{policy}, after {answer['seconds']:.1f} s{waited}")
