"""``nsfwd restore``: puts files of the quarantine back, with overrides so that they are not moved again."""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.default_paths import config_option, quarantine_option, store_option
from nsfwd.cli.options.notices import notice, result

if TYPE_CHECKING:
    from nsfwd.config import Settings
    from nsfwd.protocol.messages import Override
    from nsfwd.scanning.actions.quarantine import Store
    from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry

PREFIX = "sha256:"

_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class RestoreSelection:
    """Conditions on the entries to restore; all must hold.

    Attributes:
        paths: former paths: a file, or a directory above. ``digests``: of their content. One of both must fit.
        run: the run that moved them. ``index``: the index that has the run.
    """

    paths: tuple[bytes, ...]
    digests: frozenset[str]
    run: int | None = None
    index: Path | None = None

    def fits(self, entry: ManifestEntry) -> bool:
        """Return whether an entry is meant."""
        if self.run is not None and entry.run != self.run:
            return False
        if self.index is not None and not entry.is_of(self.index):
            return False
        if not self.paths and not self.digests:
            return True
        below = any(entry.path == path or entry.path.startswith(path.rstrip(b"/") + b"/") for path in self.paths)
        return below or entry.digest in self.digests


@click.command()
@click.argument("what", nargs=-1, metavar="[PATH | sha256:HEX]...", type=click.Path(path_type=bytes))
@click.option("--run", "number", type=int, metavar="N", help="Restore the files that this run moved.")
@click.option("--all", "everything", is_flag=True, help="Restore all files.")
@click.option("--list", "listing", is_flag=True, help="List the files without restoring any.")
@click.option("--format", "form", type=click.Choice(["text", "ndjson"]), default="text", show_default=True)
@click.option("--apply", is_flag=True, help="Restore the files; without this flag they are only listed.")
@quarantine_option
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory of --action move to restore from.",
)
@click.option("--index", type=_FILE, metavar="FILE", help="Only files that a run of this index moved.")
@click.option("--verdict", help="Verdict of the override.  [default: the policy's lowest tier]")
@click.option(
    "--reason", default="restored", show_default=True, help="Reason recorded with the override; it is shown in replies."
)
@click.option(
    "--by",
    default=lambda: os.environ.get("SUDO_USER") or getpass.getuser(),
    help="Author recorded with the override.  [default: you]",
)
@click.option("--no-override", is_flag=True, help="Add no override: the next sweep may move the file again.")
@store_option
@config_option
def restore(what: tuple[bytes, ...], **flags: Any) -> int:
    """Put back files that an action moved away, with owner, mode and times, and never over another file.

    An override is added first (nsfwd override), so that neither the next sweep nor a new model moves the file again. A
    placeholder is removed. Exit 1 when a file could not be restored, which stays where it is, or a manifest cannot be
    read.

    \b
    Example:
      nsfwd restore --list
      nsfwd restore /srv/uploads/statue.jpg --apply
      nsfwd restore --run 12 --apply
    """
    chosen = _chosen(what, flags)
    damaged: list[Exception] = []
    with _store(flags) as store:
        entries = sorted(filter(chosen.fits, store.entries(damaged.append)), key=lambda entry: entry.time)
        for error in damaged:
            notice(error)
        if flags["listing"]:
            for entry in entries:
                _list(store, entry, flags["form"])
            return exit_codes.FAILED if damaged else exit_codes.OK
        if not entries:
            notice("nothing to restore")
            return exit_codes.FAILED
        if flags["apply"]:
            with _deciding(flags) as decide:
                failed = [entry for entry in entries if not _put_back(store, entry, decide)]
        else:
            verdict = None if flags["no_override"] else _verdict(flags, _settings(flags))
            failed = [entry for entry in entries if not _rehearse(store, entry, verdict)]
    return exit_codes.FAILED if failed or damaged else exit_codes.OK


def _chosen(what: tuple[bytes, ...], flags: dict[str, Any]) -> RestoreSelection:
    if not (what or flags["number"] is not None or flags["everything"] or flags["listing"]):
        raise click.UsageError("give a PATH, a digest, --run, --all or --list")
    if flags["everything"] and what:
        raise click.UsageError("--all and PATH exclude each other")
    digests = [one.decode("ascii", "replace").removeprefix(PREFIX).lower() for one in what if _is_digest(one)]
    paths = tuple(os.path.abspath(one) for one in what if not _is_digest(one))  # noqa: PTH100  # bytes
    return RestoreSelection(paths, frozenset(digests), flags["number"], flags["index"])


def _is_digest(what: bytes) -> bool:
    return what.startswith(PREFIX.encode())


@contextmanager
def _store(flags: dict[str, Any]) -> Iterator[Store]:
    """Open the store, which must exist, and finish the moves that a killed run left half-done."""
    from nsfwd.errors import ActionFailure
    from nsfwd.scanning.actions.quarantine import Store
    from nsfwd.scanning.actions.recovery import recover

    root: Path = flags["to"] if flags["to"] is not None else flags["quarantine"]
    if not root.is_dir():
        raise ActionFailure(f"{root}: no such directory")
    with Store.shelf(root) if flags["to"] is not None else Store.quarantine(root) as store:
        recover(store, lambda entry: _write_down(store, entry), say=notice)
        yield store


def _list(store: Store, entry: ManifestEntry, form: str) -> None:
    from nsfwd.scanning.index.stat_columns import local

    lies = store.path_of(entry)
    if form == "ndjson":
        fields = ("kind", "time", "digest", "size", "verdict", "label", "score", "run", "index", "placeholder", "links")
        row = {"path": entry.path_text, **{name: getattr(entry, name) for name in fields}, "target": os.fsdecode(lies)}
        click.echo(json.dumps(row, ensure_ascii=True))
        return
    when = local(entry.time)
    run = f" run {entry.run}" if entry.run is not None else ""
    result(f"{when}{run} {entry.verdict} {PREFIX}{entry.digest} {entry.path_text}")


@contextmanager
def _deciding(flags: dict[str, Any]) -> Iterator[Callable[[ManifestEntry], Override | None]]:
    """Lend a function that writes an override for the content of an entry."""
    if flags["no_override"]:
        yield lambda entry: None
        return
    from nsfwd.cli.override import chosen_store
    from nsfwd.overrides.override_store import OverrideStore

    settings = _settings(flags)
    verdict = _verdict(flags, settings)
    with OverrideStore(chosen_store(flags["store"], settings)) as overrides:
        yield lambda entry: overrides.add(
            entry.digest, verdict, reason=flags["reason"], by=flags["by"], path=entry.path
        )


def _settings(flags: dict[str, Any]) -> Settings:
    from nsfwd.config import find_file, load_settings

    return load_settings(find_file(flags["config"], os.environ))


def _verdict(flags: dict[str, Any], settings: Settings) -> str:
    """Return the verdict for restored contents: --verdict, else the tier that every image reaches, never an alarm."""
    if flags["verdict"]:
        return str(flags["verdict"])
    from nsfwd.cli.options.tiers import floor_of
    from nsfwd.errors import NsfwdError, OverridesFailure

    try:
        return floor_of(settings)
    except NsfwdError as error:
        raise OverridesFailure(f"the policy's lowest tier is not known: {error}; give --verdict") from error


def _rehearse(store: Store, entry: ManifestEntry, verdict: str | None) -> bool:
    """Print what would be done, or the obstacle."""
    from nsfwd.errors import ActionFailure
    from nsfwd.scanning.actions.restore import rehearse

    try:
        rehearse(store, entry)
    except ActionFailure as error:
        notice(error)
        return False
    result(f"would restore {entry.path_text}" + (f", with the override {verdict}" if verdict is not None else ""))
    return True


def _put_back(store: Store, entry: ManifestEntry, decide: Callable[[ManifestEntry], Override | None]) -> bool:
    """Add the override, record the restore, move the file, in this order: a watch then ignores the new file."""
    from nsfwd.errors import ActionFailure
    from nsfwd.scanning.actions.restore import restore as put_back

    override = decide(entry)
    if override is not None:
        store.release(entry, override.time)
    _mark(store, entry, time.time(), override)
    try:
        lost = put_back(store, entry)
    except ActionFailure as error:
        _mark(store, entry, None)
        notice(error)
        return False
    result(f"restored {entry.path_text}" + (f", but not its {', '.join(lost)}" if lost else ""))
    return True


def _mark(store: Store, entry: ManifestEntry, restored: float | None, override: Override | None = None) -> None:
    """Write to the index, where it still exists, when the file came back, and its override."""
    from nsfwd.scanning.actions.action_rows import mark_restored, note_override
    from nsfwd.scanning.index.database import Index

    if entry.index and Path(entry.index).exists():
        with Index(Path(entry.index), create=False) as index:
            mark_restored(index, entry, store.path_of(entry), restored)
            if override is not None:
                note_override(index, override)


def _write_down(store: Store, entry: ManifestEntry) -> None:
    from nsfwd.scanning.actions.action_rows import note_recovered
    from nsfwd.scanning.index.database import Index

    if entry.index and Path(entry.index).exists():
        with Index(Path(entry.index), create=False) as index:
            note_recovered(index, entry, store.path_of(entry))
