"""``nsfwd index audit``: checks that the index accounts for every file of a tree. Exit 2 when it does not."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.default_paths import quarantine_option, to_option
from nsfwd.cli.options.job_option import job_option
from nsfwd.cli.options.tree_options import tree_of, tree_options
from nsfwd.escaping import escape, escape_json

if TYPE_CHECKING:
    from nsfwd.scanning.reports.audit import AuditEntry, AuditTally

KINDS = ("ok", "skipped", "error", "excluded", "changed-since", "never-seen", "unreadable")

TEXT = """\b
Exit codes: 0 every file is accounted for; 2 a file has changed since it was
scanned or was never seen, a directory cannot be read and no sweep has recorded
it, or the audit was cut short; 64 wrong usage, 74 the index cannot be read."""


@click.command(epilog=TEXT)
@tree_options
@job_option
@quarantine_option
@to_option
@click.option(
    "--list",
    "listed",
    multiple=True,
    type=click.Choice(KINDS),
    help="Kind of files to list. May be given several times.",
)
@click.option("--format", "form", type=click.Choice(["text", "json", "ndjson"]), default="text", show_default=True)
def audit(directories: tuple[bytes, ...], index: Path, listed: tuple[str, ...], form: str, **rest: Any) -> int:
    """Walk trees again, and check that the index accounts for every file as it is now.

    found = ok + skipped + error + excluded + changed since + never seen. The audit walks the trees itself and uses no
    counts of sweeps. Give it the same flags as the sweeps, so that it leaves out the same files.

    \b
    Example:
      nsfwd index audit /srv/uploads
      nsfwd index audit /srv/uploads --list never-seen --list changed-since
      nsfwd index audit --job uploads --format json
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.audit import Audit

    tree = tree_of(directories, rest | {"index": index})
    with Index(index, write=False) as opened, _interruptible() as interrupted:
        auditing = Audit(opened, tree, stopped=lambda: bool(interrupted))
        chosen = (entry for entry in auditing.entries() if entry.kind in listed)
        out = sys.stdout.buffer
        for piece in _WRITERS[form](chosen, auditing.tally, kinds=len(set(listed))):
            out.write(piece.encode("utf-8", "surrogateescape"))
        out.flush()
    if interrupted:
        return exit_codes.INTERRUPTED
    return exit_codes.OK if auditing.tally.proven else exit_codes.UNSCORED


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Let Ctrl-C end the walk but not the report of what was found; a second one ends that too."""
    signs: list[int] = []

    def come(sign: int, _: object) -> None:
        signal.signal(sign, signal.default_int_handler)
        signs.append(sign)

    before = signal.signal(signal.SIGINT, come)
    try:
        yield signs
    finally:
        signal.signal(signal.SIGINT, before)


def _text(entries: Iterator[AuditEntry], tally: AuditTally, kinds: int) -> Iterator[str]:
    for entry in entries:
        code = f"  {entry.code}" if entry.code else ""
        kind = f"{entry.kind}  " if kinds > 1 else ""
        yield f"{kind}{escape(os.fsdecode(entry.path))}{code}\n"
    yield "\n" if kinds else ""
    yield from (line + "\n" for line in _lines(tally))


def _lines(tally: AuditTally) -> Iterator[str]:
    from nsfwd.scanning.reports.audit import COUNTED, Kind

    def codes(kind: Kind) -> str:
        return ", ".join(f"{code} {count}" for (of, code), count in sorted(tally.codes.items()) if of is kind)

    width = len(str(tally.found))
    yield f"  found          {tally.found:{width}}"
    for place, kind in enumerate(COUNTED):
        line = f"{'+' if place else '='} {kind.replace('-', ' '):14} {tally.kinds[kind]:{width}}"
        yield f"{line}  {codes(kind)}".rstrip()
    if tally.kinds[Kind.UNREADABLE]:
        new = f", {tally.unknown} of them not recorded by any sweep" if tally.unknown else ""
        yield f"{tally.kinds[Kind.UNREADABLE]} directories cannot be read ({codes(Kind.UNREADABLE)}){new}"
    others = {
        "files of the index no longer exist": tally.gone,
        "directories were left out (--exclude) and not entered": tally.left_out,
        "directories on other file systems were not entered (--cross)": tally.foreign,
        "links were not followed (--follow)": tally.links,
    }
    yield from (f"{number} {text}" for text, number in others.items() if number)
    for run, why, found in tally.unended:
        yield f"the last sweep of the tree, run {run}, did not finish: {why} at {found} files"
    if tally.cut_short:
        yield f"the audit was cut short ({tally.cut_short}): it proves nothing"


def _object(entry: AuditEntry) -> str:
    from nsfwd.scanning.trees.file_entry import path_fields

    fields: dict[str, Any] = {"kind": entry.kind, **path_fields(entry.path)}
    return escape_json(json.dumps(fields | ({"code": entry.code} if entry.code else {}), ensure_ascii=False))


def _json(entries: Iterator[AuditEntry], tally: AuditTally, kinds: int) -> Iterator[str]:
    from nsfwd.scanning.reports.audit import as_dict

    yield '{"files": ['
    for place, entry in enumerate(entries):
        yield f"{',' if place else ''}\n  {_object(entry)}"
    yield f'],\n"audit": {json.dumps(as_dict(tally), indent=2)}}}\n'


def _ndjson(entries: Iterator[AuditEntry], tally: AuditTally, kinds: int) -> Iterator[str]:
    from nsfwd.scanning.reports.audit import as_dict

    yield from (f"{_object(entry)}\n" for entry in entries)
    yield json.dumps({"audit": as_dict(tally)}) + "\n"


_WRITERS = {"text": _text, "json": _json, "ndjson": _ndjson}
