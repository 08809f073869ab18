"""``nsfwd scan``: paths in, verdicts out, and an exit code a script can trust.

A client like any other. Results go to stdout as they come; the summary, and progress on a terminal, to stderr.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from nsfwd.cli import exits
from nsfwd.cli.ask import connect_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from nsfwd.client import Client
    from nsfwd.client.replies import Reply

FORMATS = ("text", "json", "ndjson", "csv")

_CHUNK = 65536

_NO_LIMIT = frozenset({"not_an_image", "excluded"})
"""Skipped for what they are, not because a limit kept them from being scored."""


@dataclass(slots=True)
class Summary:
    """What a run came to so far.

    Attributes:
        unscored: images that ought to have scores and have none: errors, refusals, and those over a limit.
        without: everything that has no scores, content that is no image included.
        broken: the run ended before everything was answered.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    alarms: int = 0
    unscored: int = 0
    without: int = 0
    broken: bool = False

    def add(self, reply: Reply) -> None:
        """Count one reply."""
        if reply.scored:
            self.verdicts[reply.verdict] += 1
            self.alarms += reply.alarm
            return
        self.others[reply.status] += 1
        self.without += 1
        self.unscored += reply.code not in _NO_LIMIT

    def exit_code(self, *, strict: bool) -> int:
        """Return 1 for an alarm, else 2 for an image left unscored, else 0; ``strict`` puts 2 first and counts all."""
        incomplete = self.broken or (self.without if strict else self.unscored) > 0
        if strict and incomplete:
            return exits.UNSCORED
        if self.alarms:
            return exits.ALARM
        return exits.UNSCORED if incomplete else exits.OK

    def line(self, seconds: float) -> str:
        """Say it in one line."""
        files = self.verdicts.total() + self.others.total()
        parts = [f"{count} {name}" for name, count in [*self.verdicts.most_common(), *self.others.most_common()]]
        alarms = f"; {self.alarms} alarm{'s' if self.alarms != 1 else ''}" if self.alarms else ""
        return f"{files} file{'s' if files != 1 else ''} in {seconds:.1f} s: {', '.join(parts) or 'nothing'}{alarms}"


@click.command(epilog=exits.TEXT)
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=bytes))
@click.option("-r", "--recursive", is_flag=True, help="Walk below directories.")
@click.option("--files-from", type=click.File("rb"), metavar="FILE", help="Read paths from FILE too; - is stdin.")
@click.option("-0", "--null", is_flag=True, help="The paths of --files-from end in NUL, as of find -print0.")
@connect_option
@click.option("--format", "spelling", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--only", type=click.Choice(["alarm"]), help="Show alarms alone; everything is counted all the same.")
@click.option("--strict", is_flag=True, help="Exit 2 before 1, and also for content that is no image.")
@click.option("--lane", type=click.Choice(["interactive", "normal", "background"]), help="How much it may hurry.")
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds allowed for each path.")
@click.option("-q", "--quiet", is_flag=True, help="No summary and no progress.")
def scan(
    paths: tuple[bytes, ...], recursive: bool, files_from: BinaryIO | None, null: bool, spelling: str, **rest: Any
) -> int:
    """Scan files and directories of the machine that the daemon runs on.

    Results go to stdout as they come, the summary to stderr. Relative paths start at the working directory.

    \b
    Example:
      nsfwd scan -r ~/Pictures
      find /srv -name '*.jpg' -print0 | nsfwd scan -0 --files-from - --format ndjson
    """
    if null and files_from is None:
        raise click.UsageError("-0 is for the paths of --files-from")
    if not paths and files_from is None:
        raise click.UsageError("name a PATH, or a list with --files-from")
    from nsfwd.cli.formats import WRITERS
    from nsfwd.client import Client, Options

    options = Options(lane=rest["lane"], deadline=rest["deadline"])
    summary, started = Summary(), time.perf_counter()
    with Client(rest["connect"], options=options) as client, _progress(quiet=rest["quiet"]) as advance:
        source = _sources(paths, files_from, null=null)
        with closing(WRITERS[spelling](sys.stdout.buffer)) as writer:
            for reply in _replies(client, source, summary, recursive=recursive):
                summary.add(reply)
                if reply.alarm or rest["only"] is None:
                    writer.write(reply)
                advance()
    if not rest["quiet"]:
        click.echo(summary.line(time.perf_counter() - started), err=True)
    return summary.exit_code(strict=rest["strict"])


def absolute(path: bytes) -> bytes:
    """Return ``path`` from the root. ``..`` stays: behind a link it does not lead back."""
    joined = os.path.join(os.getcwdb(), path)  # noqa: PTH109, PTH118 (pathlib knows no bytes)
    return joined if b".." in path.split(b"/") else os.path.normpath(joined)


def _sources(paths: Iterable[bytes], files_from: BinaryIO | None, *, null: bool) -> Iterator[bytes | None]:
    """Yield absolute paths as they come, and None before a wait for the next."""
    yield from map(absolute, paths)
    if files_from is not None:
        for record in _records(files_from, b"\0" if null else b"\n"):
            if record is None or record:
                yield record and absolute(record)


def _records(stream: BinaryIO, end: bytes) -> Iterator[bytes | None]:
    partial = b""
    while True:
        if _would_wait(stream):
            yield None
        chunk = os.read(stream.fileno(), _CHUNK)
        if not chunk:
            break
        *records, partial = (partial + chunk).split(end)
        yield from records
    yield partial


def _would_wait(stream: BinaryIO) -> bool:
    return not select.select([stream], [], [], 0)[0]


def _replies(client: Client, source: Iterable[bytes | None], summary: Summary, *, recursive: bool) -> Iterator[Reply]:
    """Yield what comes; a daemon that goes away ends the run with one line, and what came before still counts."""
    from nsfwd.errors import ConnectionLost

    try:
        yield from client.scan_many(source, recursive=recursive)
    except ConnectionLost as error:
        summary.broken = True
        click.echo(f"nsfwd: {error}; the rest was not scanned", err=True)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[], None]]:
    """Count on stderr where that is a terminal and stdout, which would get in its way, is not."""
    if quiet or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:.0f} files"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scan", total=None)
        yield lambda: progress.advance(task)
