"""``nsfwd index rejudge``: judges kept scores by the policies of today."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsfwd.cli.options.default_paths import index_option
from nsfwd.cli.options.tables import format_option, write

if TYPE_CHECKING:
    from nsfwd.bundles.policy import Policy
    from nsfwd.config import Settings
    from nsfwd.protocol.messages import Override
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.index.rejudge import Rejudging
    from nsfwd.scanning.index.runs import Run

_CHANGES = ("before", "after", "alarm", "label", "score", "path")
_SHOWN = ("before", "after", "score", "alarm", "label", "path")
"""As text: after the verdict the score that decided it, which is not the score of the label."""

_COUNTS = ("before", "after", "files")


@click.command()
@index_option
@click.option("--dry-run", is_flag=True, help="Print the changes without making them.")
@click.option("--list", "listed", is_flag=True, help="List every file whose verdict changes.")
@click.option("--connect", metavar="ADDR", help="Use the policies of this daemon: tcp:HOST:PORT or unix:/path.")
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use the policies of these settings.  [default: $NSFWD_CONFIG, else /etc/nsfwd/nsfwd.toml if there is one]",
)
@format_option
def rejudge(index: Path, connect: str | None, config: Path | None, form: str, **rest: Any) -> None:
    """Apply the present policies to all scores of the index, without opening or scanning a file.

    Overrides (nsfwd override) win. A sweep does the same by itself when the policy of the daemon has changed, and acts
    on new alarms.

    \b
    Example:
      nsfwd index rejudge --config stricter.toml --dry-run
      nsfwd index rejudge --connect unix:/run/nsfwd/nsfwd.sock --list
    """
    from nsfwd.config import find_file, load_settings
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.index.rejudge import Rejudging

    if connect is not None and config is not None:
        raise click.UsageError("--connect and --config exclude each other: each is a source of policies")
    settings = load_settings(find_file(config, os.environ), os.environ)
    policies = _policies(settings, connect)
    with Index(index, create=False, write=not rest["dry_run"]) as opened:
        overrides = _overrides(settings)
        if rest["dry_run"]:
            _print(Rejudging(opened, policies, overrides=overrides), form, listed=rest["listed"])
            return
        with _run(opened) as run:
            rejudging = Rejudging(opened, policies, run=run.id, overrides=overrides)
            _print(rejudging, form, listed=rest["listed"])
            run.counts.known, run.counts.unchanged = rejudging.changed, rejudging.files - rejudging.changed
            run.counts.alarms = rejudging.alarms


@contextmanager
def _run(index: Index) -> Iterator[Run]:
    """Begin a run, and write why it ended. SIGTERM interrupts it as Ctrl-C does."""
    from nsfwd.scanning.index.runs import Run

    run, why = Run.begin(index, "rejudge", ()), "failed"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield run
        why = "finished"
    except KeyboardInterrupt:
        why = "interrupted"
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        run.end(why)
        run.close()


def _policies(settings: Settings, connect: str | None) -> Mapping[str, Policy]:
    if connect is None:
        from nsfwd.server.daemon import open_bundles

        return {bundle.name: bundle.policy for bundle in open_bundles(settings)}
    from nsfwd.cli.options.daemon_commands import TIMEOUT
    from nsfwd.client import Client
    from nsfwd.scanning.index.rejudge import policies_of

    with Client(connect, timeout=TIMEOUT, patience=0) as client:
        return policies_of(client.models()["models"])


def _overrides(settings: Settings) -> Mapping[bytes, Override | None] | None:
    """Return the overrides; None where the settings name no store, or one that is not there.

    Raises:
        OverridesFailure: it is there and cannot be read: overrides must not be undone unnoticed.
    """
    from nsfwd.overrides.override_store import OverrideStore, store_of

    path = store_of(settings.overrides)
    if path is None or not path.exists():
        return None
    with OverrideStore(path, write=False) as store:
        return store.changes().overrides


def _print(rejudging: Rejudging, form: str, *, listed: bool) -> None:
    """Judge, and print the result."""
    changes = _changes(rejudging)
    if listed:
        write(changes, _SHOWN if form == "text" else _CHANGES, form)
    else:
        for _ in changes:
            pass
        counts = sorted(rejudging.verdicts.items(), key=lambda item: (item[0][0] == item[0][1], -item[1]))
        rows = ({"before": before, "after": after, "files": files} for (before, after), files in counts)
        write(rows, _COUNTS, form)
    click.echo(
        f"{rejudging.files} files judged again, {rejudging.changed} with another verdict, {rejudging.alarms} alarms",
        err=True,
    )
    for why, count in rejudging.left.items():
        click.echo(f"{count} not judged again: {why}", err=True)


def _changes(rejudging: Rejudging) -> Iterator[dict[str, Any]]:
    from nsfwd.scanning.trees.file_entry import path_fields

    for before, judged in rejudging.changes():
        yield {
            "before": before,
            "after": judged.verdict,
            "alarm": judged.alarm,
            "label": judged.label,
            "score": judged.score,
            **path_fields(judged.found.path),
        }
