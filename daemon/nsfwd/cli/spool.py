"""``nsfwd spool``: lists of paths that other programs handed in as files are answered into files."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.daemon_commands import connect_option

TEXT = """\b
Exit codes: 0 nothing is left, also when there were alarms: NAME.done tells of them; 64 wrong usage,
74 the spool cannot be written, 75 another process is at work in it, 130 interrupted."""


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
    job goes on where it was. Ends when no list is left: the unit nsfwd-spool.path starts it for each.

    \b
    Example:
      find /srv/uploads -type f > /var/spool/nsfwd/tmp/uploads
      mv /var/spool/nsfwd/tmp/uploads /var/spool/nsfwd/in/uploads.list
      nsfwd spool
    """
    from nsfwd.scanning.spool.spool_dir import Spool

    shown: Callable[[str], None] = lambda text: None  # noqa: E731
    if "NOTIFY_SOCKET" in os.environ:
        from nsfwd.systemd import Notifier

        notifier = Notifier(os.environ)
        notifier.ready("reading lists")
        shown = notifier.status
    with Spool(directory, say=_say) as opened:
        return _run(opened, connect, say=(lambda text: None) if quiet else _say, shown=shown)


def _run(opened: object, connect: str | None, *, say: Callable[[str], None], shown: Callable[[str], None]) -> int:
    """Work until nothing is left or a signal comes."""
    import uvloop

    from nsfwd.scanning.spool.spool_dir import Spool
    from nsfwd.scanning.spool.spool_worker import work_off

    assert isinstance(opened, Spool)
    signs: list[int] = []

    async def work() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def come(sign: int) -> None:
            signs.append(sign)
            task.cancel()

        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, come, sign)
        await work_off(opened, connect, say=say, shown=shown)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(work())
        except asyncio.CancelledError:
            if signs[:1] != [signal.SIGTERM]:
                raise KeyboardInterrupt from None
    return exit_codes.OK


def _say(text: str) -> None:
    from nsfwd.escaping import visible

    click.echo(f"nsfwd: {visible(text)}", err=True)
