"""``nsfwd override``: verdicts that people set for pictures, by content; they win over the model's.

Works on the store itself, with or without a daemon; a daemon that runs learns of a change within a second. Results on
standard output, the rest on standard error.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.default_paths import config_option, output_option, store_option
from nsfwd.cli.options.lazy_group import Group
from nsfwd.cli.options.notices import notice
from nsfwd.cli.options.tables import FORMATS
from nsfwd.config import Settings, find_file, load_settings
from nsfwd.errors import NsfwdError, OverridesFailure
from nsfwd.escaping import escape
from nsfwd.overrides import override_lists
from nsfwd.overrides.override_store import MOST_TIME, OverrideChange, OverrideStore, parse_digest, store_of
from nsfwd.protocol.messages import Override
from nsfwd.quantities import parse_duration

STDIN = "-"
PREFIX = "sha256:"

_NOTHING = hashlib.sha256().digest()
"""Digest of no bytes: of a pipe whose writer failed."""

_WHEN = "30m, 12h, 30d, 2w, 1y, 2031-12-24 or 2031-12-24T18:00"

_WHAT = "[PATH | sha256:HEX]..."


def _you() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


_by = click.option("--by", default=_you, help="Author recorded with the decision.  [default: you]")
_force = click.option("--force", is_flag=True, help="Accept a verdict that is in no policy: it counts as an alarm.")


@click.group("override", cls=Group)
def override() -> None:
    """Manage overrides: decisions of people, which win over the model.

    A decision belongs to a content, not to a path: it applies to every copy, and not to a changed file.

    \b
    Example:
      nsfwd override add statue.jpg --verdict safe --reason "a statue"
    """


@override.command("add")
@click.argument("what", nargs=-1, required=True, metavar=_WHAT)
@click.option("--verdict", required=True, help="New verdict: a tier of the policy.")
@click.option("--reason", required=True, help="Reason recorded with the decision; it is shown in replies.")
@_by
@click.option("--expires", metavar="WHEN", help=f"End of the decision: {_WHEN}.  [default: never]")
@_force
@store_option
@config_option
def add(what: tuple[str, ...], verdict: str, reason: str, expires: str | None, **rest: Any) -> None:
    """Add decisions about pictures: files, a picture on stdin (-), or digests.

    \b
    Example:
      nsfwd override add statue.jpg --verdict safe --reason "a statue" --expires 30d
      nsfwd override add sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 \\
          --verdict sensitive --reason "complaint 17" --by eva
    """
    settings = _settings(rest["config"])
    until = None if expires is None else _until(expires)
    if not rest["force"]:
        _check_verdicts([verdict], settings)
    contents = [_content(one) for one in what]
    with OverrideStore(chosen_store(rest["store"], settings)) as store:
        for digest, path in contents:
            made = store.add(digest, verdict, reason=reason, by=rest["by"], expires=until, path=path)
            click.echo(_line(made))


@override.command("list")
@click.argument("what", nargs=-1, metavar=_WHAT)
@click.option("--format", "form", type=click.Choice(FORMATS), help="Output format.  [default: text]")
@click.option("--expired", is_flag=True, help="Include expired decisions.")
@click.option("--history", is_flag=True, help="Show every change with time and author, as text.")
@store_option
@config_option
def list_overrides(what: tuple[str, ...], form: str | None, *, expired: bool, history: bool, **rest: Any) -> None:
    """List all decisions, or those about some pictures.

    \b
    Example:
      nsfwd override list
      nsfwd override list statue.jpg --format json
    """
    if history and form:
        raise click.UsageError("--history and --format exclude each other")
    wanted = [digest for digest, _ in map(_content, what)]
    opened = _open(rest["config"], rest["store"])
    if opened is None:
        return
    with opened as overrides:
        if history:
            for change in _changes(overrides, wanted):
                click.echo(_change(change))
            return
        found = (one for one in overrides.items(expired=expired) if not wanted or one.digest in wanted)
        _print(found, form or "text")


@override.command("remove")
@click.argument("what", nargs=-1, required=True, metavar=_WHAT)
@_by
@store_option
@config_option
def remove(what: tuple[str, ...], by: str, config: Path | None, store: Path | None) -> int:
    """Remove decisions: the model's verdict counts again. Exit 1 when there is no decision about a picture.

    Example: nsfwd override remove statue.jpg
    """
    missing = 0
    contents = [(one, _content(one)[0]) for one in what]
    with OverrideStore(chosen_store(store, _settings(config)), create=False) as overrides:
        for name, digest in contents:
            gone = overrides.remove(digest, by=by)
            if gone is None:
                missing += 1
                notice(f"no override for {escape(name)}")
            else:
                click.echo(f"removed: {_line(gone)}")
    return exit_codes.FAILED if missing else exit_codes.OK


@override.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), help="[default: by the name; else ndjson]")
@_force
@store_option
@config_option
def import_overrides(file: Path, form: str | None, *, force: bool, config: Path | None, store: Path | None) -> None:
    """Import decisions that export wrote, or a list made by hand: all or none. The later of two about a content wins.

    A list needs the columns sha256 and verdict; reason, by, time, expires and path are optional.

    Example: nsfwd override import decisions.ndjson
    """
    settings = _settings(config)
    source = sys.stdin.buffer if str(file) == STDIN else file.open("rb")
    with source, OverrideStore(chosen_store(store, settings)) as overrides:
        form = form or ("csv" if file.suffix.lower() == ".csv" else "ndjson")
        given = override_lists.read(source, form)
        taken = overrides.take(given if force else _known(given, settings))
    click.echo(
        f"{taken.added} added, {taken.replaced} replaced, {taken.older} not newer than the present one", err=True
    )


@override.command("export")
@output_option
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), help="[default: by the name; else ndjson]")
@store_option
@config_option
def export(output: Path | None, form: str | None, config: Path | None, store: Path | None) -> None:
    """Export all decisions, also expired ones, as a list for import.

    Example: nsfwd override export -o decisions.ndjson
    """
    from nsfwd.scanning.trees.file_io import private

    opened = _open(config, store)
    if opened is None:
        return
    chosen = form or ("csv" if output is not None and output.suffix.lower() == ".csv" else "ndjson")
    with opened as overrides:
        if output is None:
            _print(overrides.items(expired=True), chosen)
            return
        with private(output) as out:
            count = override_lists.write(overrides.items(expired=True), out, chosen)
    click.echo(f"wrote {count} overrides to {escape(str(output))}", err=True)


# -- which store -------------------------------------------------------------------------------------------------------


def _settings(config: Path | None) -> Settings:
    return load_settings(find_file(config, os.environ), os.environ)


def chosen_store(store: Path | None, settings: Settings) -> Path:
    """Return the store that was named with ``--store``, else that of the settings.

    Raises:
        OverridesFailure: neither names one.
    """
    path = store if store is not None else store_of(settings.overrides)
    if path is None:
        raise OverridesFailure("the setting overrides is none: give a store with --store")
    return path


def _open(config: Path | None, store: Path | None) -> OverrideStore | None:
    """Open the store, or report that there are no overrides yet; a store that was named has to be there."""
    path = chosen_store(store, _settings(config))
    if store is None and not path.exists():
        notice(f"no overrides yet ({escape(str(path))})")
        return None
    return OverrideStore(path, create=False) if os.access(path, os.W_OK) else OverrideStore(path, write=False)


# -- arguments --------------------------------------------------------------------------------------------------------


def _content(what: str) -> tuple[bytes, bytes]:
    """Return the digest of an argument, and its path where it has one.

    Raises:
        click.UsageError: it cannot be read, or holds nothing.
    """
    if what.startswith(PREFIX):
        return parse_digest(what.removeprefix(PREFIX)), b""
    try:
        if what == STDIN:
            digest, path = _hash(sys.stdin.buffer), b""
        else:
            with Path(what).open("rb") as file:
                digest, path = _hash(file), os.fsencode(Path(what).absolute())
    except OSError as error:
        raise click.UsageError(f"{what or 'an empty PATH'}: {error.strerror}") from error
    if digest == _NOTHING:
        raise click.UsageError(f"{what}: the file is empty")
    return digest, path


def _hash(file: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.digest()


def _until(text: str) -> float:
    """Return the time that a date, or a duration from now on, ends."""
    try:
        until = override_lists.parse_time(text)
    except OverridesFailure:
        try:
            until = time.time() + parse_duration(text)
        except ValueError:
            raise click.UsageError(f"invalid --expires {text!r}: write {_WHEN}") from None
    if not time.time() < until <= MOST_TIME:
        raise click.UsageError(f"invalid --expires {text!r}: the time must be in the future; write {_WHEN}")
    return until


def _known(given: Iterable[Override], settings: Settings) -> Iterator[Override]:
    """Yield the overrides, checking that the policies have their verdicts."""
    checked: set[str] = set()
    for one in given:
        if one.verdict not in checked:
            _check_verdicts([one.verdict], settings)
            checked.add(one.verdict)
        yield one


def _check_verdicts(wanted: Iterable[str], settings: Settings) -> None:
    """Refuse a verdict that is in no policy of the served bundles.

    Raises:
        OverridesFailure: a verdict is unknown, or the policies cannot be found.
    """
    from nsfwd.cli.options.tiers import tiers_of

    try:
        known = dict.fromkeys(tier for tiers in tiers_of(settings) for tier in tiers)
    except NsfwdError as error:
        raise OverridesFailure(f"cannot check the verdict: {error}; --force accepts any") from error
    for verdict in wanted:
        if verdict not in known:
            raise OverridesFailure(
                f"unknown verdict {verdict!r}; the policies have {', '.join(known)}; --force accepts it"
            )


# -- output -----------------------------------------------------------------------------------------------------------


def _print(overrides: Iterable[Override], form: str) -> None:
    if form == "text":
        for one in overrides:
            click.echo(_line(one))
        return
    override_lists.write(overrides, sys.stdout.buffer, form)


def _changes(overrides: OverrideStore, wanted: list[bytes]) -> Iterator[OverrideChange]:
    if not wanted:
        yield from overrides.history()
    for digest in wanted:
        yield from overrides.history(digest)


def _line(one: Override) -> str:
    ends = "" if one.expires is None else f" {'until' if one.holds(time.time()) else 'expired'} {_date(one.expires)}"
    by, reason = f" by {one.by}" if one.by else "", f": {one.reason}" if one.reason else ""
    path = f" ({os.fsdecode(one.path)})" if one.path else ""
    return escape(f"{PREFIX}{one.digest.hex()} {one.verdict}{ends}{by} on {_date(one.time)}{reason}{path}")


def _change(change: OverrideChange) -> str:
    by, reason = f" by {change.by}" if change.by else "", f": {change.reason}" if change.reason else ""
    digest = f"{PREFIX}{change.digest.hex()}"
    return escape(f"{_date(change.time)} {change.what} {digest} {change.verdict}{by}{reason}")


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
