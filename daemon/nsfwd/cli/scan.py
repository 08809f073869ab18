"""``nsfwd scan``: paths in, verdicts out, and an exit code for scripts.

A client of the daemon, or with ``--local`` a pipeline of its own. Results go to stdout as they come; the summary, and
progress on a terminal, to stderr. Paths come from ``path_inputs``, replies are written by ``output_formats``.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.daemon_commands import connect_option
from nsfwd.cli.options.notices import notice
from nsfwd.cli.options.param_types import FiniteRange
from nsfwd.cli.options.path_inputs import (
    STDIN,
    Local,
    absolute,
    count,
    edited,
    exclude_option,
    listed,
    only_directories,
    records,
)
from nsfwd.cli.options.summary import Summary
from nsfwd.errors import CodedError, NsfwdError
from nsfwd.escaping import escape
from nsfwd.protocol.limits import MAX_DEADLINE, MAX_FRAMES_ASKED
from nsfwd.scanning.trees.walk import Exclusion

if TYPE_CHECKING:
    from nsfwd.cli.options.output_formats import Writer
    from nsfwd.client import Client, Options, Tree
    from nsfwd.client.results import Reply
    from nsfwd.client.scan_inputs import Item

ALARMS = "alarm"
"""With ``--only``: every verdict that is an alarm."""

FORMATS = ("text", "json", "ndjson", "csv")

BETWEEN_LOOKS = 0.5
"""Seconds between two attempts to reach a daemon that is waited for."""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """Inputs and ways of one scan.

    Attributes:
        paths: ``STDIN`` is the image on stdin. ``files_from``: a list of further paths, each ended by ``end``.
        send: ``auto`` opens the files here that a daemon of this machine cannot open, ``always`` all files, ``bytes``
            reads all and passes no descriptor, ``never`` opens none.
        wait: wait for the daemon, also through its restarts.
    """

    paths: tuple[bytes, ...]
    files_from: BinaryIO | None
    end: bytes
    recursive: bool
    exclusion: Exclusion
    send: str
    wait: bool

    @property
    def listing(self) -> bool:
        """Whether directories are listed here, if the daemon is here: a file that it cannot open, or that was in flight
        when it went away, is then requested again alone."""
        return bool(self.exclusion) or self.wait or self.send == "auto"

    @property
    def opening(self) -> bool:
        """Whether all files are opened here."""
        return self.send in ("always", "bytes")

    def each(self) -> Iterator[bytes | None]:
        """Yield absolute paths as they come, and None before a wait for the next."""
        for path in self.paths:
            yield path if path == STDIN else absolute(path)
        if self.files_from is not None:
            for record in edited(records(self.files_from, self.end), self.end):
                if record is None or record:
                    yield record and absolute(record)

    def shallow(self, path: bytes | None) -> bool:
        """Return whether no file of a path would be scanned because all are in directories below."""
        return not self.recursive and path is not None and path != STDIN and only_directories(path, self.exclusion)

    def total(self, stop: Any) -> int | None:
        """Count the files, or return None where ``stop`` returned true first."""
        return count(map(absolute, self.paths), self.exclusion, recursive=self.recursive, stop=stop)


@click.command(epilog=exit_codes.TEXT)
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=bytes, readable=False))
@click.option("-r", "--recursive", is_flag=True, help="Scan directories below as well.")
@click.option("--files-from", type=click.File("rb"), metavar="FILE", help="List of further paths; - is stdin.")
@click.option("-0", "--null", is_flag=True, help="End paths of --files-from and -l with NUL: find -print0, xargs -0.")
@exclude_option
@connect_option
@click.option("--local", is_flag=True, help="Scan without a daemon, with the settings of serve.")
@click.option("--wait", is_flag=True, help="Wait until the daemon is ready, also through its restarts.")
@click.option("--format", "output_format", type=click.Choice(FORMATS), help="Format of the output.  [default: text]")
@click.option("-l", "--list", "listing", is_flag=True, help="Print paths alone, unescaped, for other programs.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.option(
    "--only",
    metavar="TIER",
    multiple=True,
    help="Show only this verdict, or with alarm all alarms; everything is counted. May be given several times.",
)
@click.option(
    "--fail-on",
    metavar="TIER",
    multiple=True,
    help="Verdict that exits with 1 as an alarm does. May be given several times.",
)
@click.option("--strict", is_flag=True, help="Exit 2 before 1, and also for content that is not an image.")
@click.option("--lane", type=click.Choice(["interactive", "normal", "background"]), help="Scheduling priority.")
@click.option(
    "--frames",
    metavar="NUMBER",
    type=click.IntRange(1, MAX_FRAMES_ASKED),
    help="Largest number of frames to score of an animation.",
)
@click.option("--identity", is_flag=True, help="Add size, inode and SHA-256 of each file (json and ndjson).")
@click.option(
    "--deadline",
    metavar="SECONDS",
    type=FiniteRange(0, MAX_DEADLINE, min_open=True),
    help="Time limit of each path.",
)
@click.option(
    "--send",
    type=click.Choice(["auto", "always", "bytes", "never"]),
    default="auto",
    show_default=True,
    help="Files to open here: those that a daemon of this machine cannot open (auto), all (always, bytes), or none. "
    "Over a Unix socket the open file is passed, over TCP and with bytes its content is sent.",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary and no progress.")
def scan(paths: tuple[bytes, ...], files_from: BinaryIO | None, null: bool, **rest: Any) -> int:
    """Scan files and directories of the machine that the daemon runs on.

    Results go to stdout as they come, the summary to stderr. Relative paths start at the working directory. The path -
    is the image on stdin.

    A verdict is a tier of the policy. The bundles' policy has safe, review and sensitive, and only sensitive is an
    alarm. Before publishing a picture use --strict --fail-on review: then exit code 0 means that it is safe.

    \b
    Example:
      nsfwd scan -r ~/Pictures --exclude .thumbnails
      find /srv -name '*.jpg' -print0 | nsfwd scan -0 --files-from - --format ndjson
      curl -s https://example.org/a.jpg | nsfwd scan -
      nsfwd scan --strict --fail-on review upload.jpg && mv upload.jpg published/
      nsfwd scan -r /srv --only review --only alarm -l0 | xargs -0 mv -t /srv/held
    """
    _check(paths, files_from, null=null, listing=rest["listing"])
    if rest["listing"] and rest["output_format"]:
        raise click.UsageError("-l and --format exclude each other")
    exclusion, end = Exclusion(rest["exclude"]), b"\0" if null else b"\n"
    asked = ScanOptions(paths, files_from, end, rest["recursive"], exclusion, rest["send"], rest["wait"])
    summary, started = Summary(frozenset(rest["fail_on"])), time.perf_counter()
    try:
        _scan(asked, summary, rest)
    except NsfwdError as error:
        if exit_codes.code_of(error) != exit_codes.FAILED:
            raise
        notice(str(error))
        return exit_codes.CONFIG  # no failure may look like an alarm
    if not rest["quiet"]:
        click.echo(summary.line(time.perf_counter() - started), err=True)
    return summary.exit_code(strict=rest["strict"])


def _scan(asked: ScanOptions, summary: Summary, rest: dict[str, Any]) -> None:
    from nsfwd.cli.options.output_formats import PathWriter, writer
    from nsfwd.cli.options.progress import progress
    from nsfwd.client import Options

    countable = asked.files_from is None and STDIN not in asked.paths
    options = Options(lane=rest["lane"], deadline=rest["deadline"], identity=rest["identity"], frames=rest["frames"])
    with _client(rest["connect"], options, local=rest["local"], wait=rest["wait"]) as client:
        _check_tiers(client, {*rest["only"], *rest["fail_on"]} - {ALARMS})
        results: Writer = (
            PathWriter(sys.stdout.buffer, asked.end.decode())
            if rest["listing"]
            else writer(rest["output_format"] or "text", sys.stdout.buffer, colour=_colour(rest["color"]))
        )
        count = asked.total if countable else None
        with (
            closing(results) as out,
            progress(count, quiet=rest["quiet"], filtered=bool(rest["only"])) as bar,
        ):
            for reply in _replies(client, asked, summary):
                summary.add(reply)
                if _wanted(reply, rest["only"]):
                    with bar.aside():
                        out.write(reply)
                bar.advance()


def _check_tiers(client: Client, named: Collection[str]) -> None:
    """Refuse a tier that no policy has: with a typing error every picture would pass.

    Raises:
        click.UsageError: a tier is unknown.
    """
    if not named:
        return
    try:
        models = client.models().get("models", [])
    except CodedError:  # this caller may not ask
        return
    known = {tier["name"]: None for model in models for tier in model["tiers"] or map(_as_tier, model["labels"])}
    for tier in named if known else ():
        if tier not in known:
            raise click.UsageError(f"unknown tier {tier!r}; the policies have {', '.join(known)}")


def _as_tier(label: str) -> dict[str, str]:
    """Return a label as a tier, for a policy without tiers."""
    return {"name": label}


def _wanted(reply: Reply, only: Collection[str]) -> bool:
    return not only or (reply.scored and (reply.verdict in only or (reply.alarm and ALARMS in only)))


def _check(paths: tuple[bytes, ...], files_from: BinaryIO | None, *, null: bool, listing: bool) -> None:
    if null and files_from is None and not listing:
        raise click.UsageError("-0 needs --files-from or -l")
    if not paths and files_from is None:
        raise click.UsageError("give a PATH, or a list with --files-from")
    if b"" in paths:
        raise click.UsageError("a PATH is empty: is a variable unset?")
    if paths.count(STDIN) + (files_from is not None and files_from.fileno() == 0) > 1:
        raise click.UsageError("stdin can be read once: as an image or as a list")


def _client(connect: str | None, options: Options, *, local: bool, wait: bool) -> Client:
    """Return the client of a daemon, or with ``local`` a scanner that needs none."""
    if local:
        if connect or wait:
            raise click.UsageError("--local excludes --connect and --wait")
        from nsfwd import logs
        from nsfwd.local import Scanner

        logs.setup("warning")
        return Scanner(options=options)
    from nsfwd.client import Client

    if not wait:
        return Client(connect, options=options)
    _wait(connect)
    return Client(connect, options=options, patience=math.inf)


def _colour(choice: str) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return choice == "always" or (choice == "auto" and sys.stdout.isatty() and not plain)


def _wait(connect: str | None) -> None:
    """Return once a daemon is ready."""
    from nsfwd.client import Client
    from nsfwd.client.addresses import candidates

    candidates(connect)  # an invalid address is an error at once
    reported = False
    while True:
        try:
            with Client(connect, patience=0) as client:
                why = client.ready()
            if why.get("ready"):
                return
        except NsfwdError as error:
            why = {"why": str(error)}
        if not reported:
            notice(f"waiting: {why.get('why') or 'the daemon is not ready'}")
            reported = True
        time.sleep(BETWEEN_LOOKS)


def _replies(client: Client, asked: ScanOptions, summary: Summary) -> Iterator[Reply]:
    """Yield the replies; a daemon that goes away ends the run with one line, and earlier replies still count.

    Raises:
        NsfwdError: there was no reply at all.
    """
    local = Local(
        asked.exclusion,
        recursive=asked.recursive,
        passed=lambda: client.passes_descriptors and asked.send != "bytes",
        limit=lambda: int(client.version()["limits"]["max_bytes"]),
    )
    here = _is_here(client.address)
    if asked.exclusion and not asked.opening and not here:
        raise click.UsageError(
            f"--exclude needs directories of this machine, and {client.address} is another; use --send always"
        )
    passing = asked.send == "auto" and here
    listing = asked.listing and here and not asked.opening
    source = _items(asked, local, summary, listing=listing, here=here)
    recursive = asked.recursive and not listing
    try:
        while True:
            for reply in client.scan_many(source, recursive=recursive):
                if not (passing and local.takes(reply)):
                    yield reply
                while local.replies:
                    yield local.replies.popleft()
            while local.replies:
                yield local.replies.popleft()
            if not local.waiting:
                return
            source = local.again()
    except NsfwdError as error:
        if not summary.files:
            raise
        summary.broken = True
        notice(f"{error}; the rest was not scanned")


def _items(asked: ScanOptions, local: Local, summary: Summary, *, listing: bool, here: bool) -> Iterator[Item | None]:
    """Yield the paths to request, the images to open here instead, and None before a wait."""
    named = _deep(asked, summary) if here or asked.opening else asked.each()
    paths: Iterator[bytes | Tree | None] = (
        listed(named, asked.exclusion, local, recursive=asked.recursive) if listing else named
    )
    for path in paths:
        if path == STDIN:
            yield from local.stream(sys.stdin.buffer, "-")
        elif asked.opening and isinstance(path, bytes):
            if not asked.exclusion.holds(path):
                yield from local.images(path)
        else:
            yield path
        if local.waiting:
            yield from local.again()
            if path is None:
                yield None


def _deep(asked: ScanOptions, summary: Summary) -> Iterator[bytes | None]:
    """Yield the paths with files to scan, and report the others."""
    for path in asked.each():
        if asked.shallow(path):
            summary.broken = True
            notice(f"{escape(path or b'')}: contains only directories, which are not scanned; add -r")
        else:
            yield path


def _is_here(address: str) -> bool:
    """Return whether the daemon has the file system of this machine: on another the same path is another file."""
    return address.startswith(("local", "unix:", "tcp:127.", "tcp:[::1]", "tcp:localhost:"))
