"""``nsfwd spool``: lists of paths that other programs handed in as files are answered into files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.daemon_commands import connect_option
from nsfwd.cli.options.long_runs import run_until_signal, say

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

    shown: Callable[[str], None] = lambda text: None  # noqa: E731
    service = "NOTIFY_SOCKET" in os.environ
    if service:
        from nsfwd.systemd import Notifier

        notifier = Notifier(os.environ)
        notifier.ready("reading lists")
        shown = notifier.status
    with Spool(directory, say=say) as opened:
        heard: Callable[[str], None] = (lambda text: None) if quiet else say
        done, _ = run_until_signal(lambda _: work_off(opened, connect, say=heard, shown=shown, stay=service))
        return exit_codes.IO if done is not None and opened.left else exit_codes.OK
