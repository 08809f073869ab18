"""``nsfwd spool``: answers lists of paths that other programs put into a directory, with files of replies."""

from __future__ import annotations

from pathlib import Path

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.daemon_commands import connect_option
from nsfwd.cli.options.long_runs import reporting, run_until_signal
from nsfwd.cli.options.notices import notice

TEXT = """\b
Exit codes: 0 no list is left, also when there were alarms, which NAME.done counts; 64 wrong usage,
74 the spool cannot be written, or a list can be neither answered nor put aside,
75 another process works in it, 130 interrupted."""


@click.command(epilog=TEXT)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/var/spool/nsfwd"),
    show_default=True,
    help="Directory of the spool, with in and out.",
)
@connect_option
@click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
def spool(directory: Path, connect: str | None, *, quiet: bool) -> int:
    """Answer the lists of paths in a spool directory.

    A list NAME.list, renamed into the directory "in" once it is whole, is answered into out/NAME.ndjson, a reply a
    line, as they come; "id" is the number of the path in its list, from 0. out/NAME.done with counts ends it. A killed
    job goes on where it was. Ends when no list is left; the unit nsfwd-spool.path starts it for the next.

    \b
    Example:
      find /srv/uploads -type f > /var/spool/nsfwd/tmp/uploads
      mv /var/spool/nsfwd/tmp/uploads /var/spool/nsfwd/in/uploads.list
      nsfwd spool
    """
    from nsfwd.scanning.spool.spool_dir import Spool
    from nsfwd.scanning.spool.spool_worker import work_off

    with reporting(quiet=True) as (show, ready), Spool(directory, say=notice) as opened:
        if ready is not None:
            ready("reading lists")
        heard, shown = _ignore if quiet else notice, show or _ignore
        stay = ready is not None
        done, _ = run_until_signal(lambda _: work_off(opened, connect, say=heard, shown=shown, stay=stay))
        return exit_codes.IO if done is not None and opened.left else exit_codes.OK


def _ignore(text: str) -> None:
    """Report nothing."""
