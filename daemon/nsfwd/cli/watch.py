"""``nsfwd watch``: scans every file soon after it was written, until it is stopped.

The watch itself is ``scanning.watches``; here are its flags, its signals and its progress.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.action_options import action_options, actor
from nsfwd.cli.options.daemon_commands import connect_option
from nsfwd.cli.options.job_option import job_option
from nsfwd.cli.options.long_runs import reporting, run_until_signal
from nsfwd.cli.options.notices import notice
from nsfwd.cli.options.param_types import Duration
from nsfwd.cli.options.tree_options import send_option, tree_of, tree_options
from nsfwd.quantities import format_count

if TYPE_CHECKING:
    from nsfwd.scanning.trees.walk import WalkedTree
    from nsfwd.scanning.watches.watch import WatchPlan, WatchProgress

TEXT = """\b
Exit codes: 0 stopped by SIGTERM, 3 stopped by the circuit breaker, 64 wrong usage, 70 a defect,
74 the index or the quarantine cannot be written, 78 the job is invalid, 130 interrupted."""


@click.command(epilog=TEXT)
@tree_options
@connect_option
@click.option("--settle", type=Duration(), help="Time without changes after which a file is scored.  [default: 500ms]")
@click.option(
    "--every", type=Duration(), help="Interval of sweeps while some directories cannot be watched.  [default: 10m]"
)
@send_option
@action_options
@job_option
@click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
def watch(directories: tuple[bytes, ...], index: Path, **flags: Any) -> int:
    """Scan new and changed files of trees soon after they were written.

    Begins with a sweep, and sweeps again after events were lost, so that no file is missed. The limits of the circuit
    breaker apply to one day. When the daemon is gone, the watch waits for it.

    \b
    Example:
      nsfwd watch /srv/uploads --action quarantine --apply
    """
    plan = _plan(tree_of(directories, flags | {"index": index}), flags)
    from nsfwd.scanning.actions.breaker import DAY
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.watches.watch import watch as watch_trees

    acting = actor(flags, plan.tree.roots, window=DAY)
    index.parent.mkdir(parents=True, exist_ok=True)
    with Index(index) as opened, reporting(quiet=flags["quiet"]) as (show, begun):
        from dataclasses import replace

        handler, shown = acting(opened), plan
        if show is not None:
            shown = replace(plan, shown=lambda progress: show(line(progress)))
        elif not flags["quiet"]:
            begun = notice
        ready = (lambda: begun("watching")) if begun is not None else (lambda: None)
        _, number = run_until_signal(lambda stop: watch_trees(opened, shown, handler, stop=stop, ready=ready))
    return exit_codes.INTERRUPTED if number == signal.SIGINT else exit_codes.OK


def _plan(tree: WalkedTree, flags: dict[str, Any]) -> WatchPlan:
    from nsfwd.scanning.submission.scan_run import RunOptions
    from nsfwd.scanning.watches.debounce import SETTLE
    from nsfwd.scanning.watches.watch import EVERY, WatchPlan

    options = RunOptions("watch", tree.roots, connect=flags["connect"], send=flags["send"], say=notice)
    return WatchPlan(tree, options, settle=flags["settle"] or SETTLE, every=flags["every"] or EVERY)


def line(progress: WatchProgress) -> str:
    """Return the progress in one line."""
    counts = progress.counts
    parts = [f"{format_count(progress.watched)} directories", f"{format_count(counts.ok + counts.known)} files judged"]
    for number, word in (
        (counts.alarms, "alarms"),
        (counts.errors, "errors"),
        (progress.settling, "still being written"),
        (progress.unwatched, "directories swept, not watched"),
        (progress.overflows, "losses of events"),
    ):
        if number:
            parts.append(f"{format_count(number)} {word}")
    parts += ["sweeping"] * progress.sweeping + ["waiting for the daemon"] * progress.waiting
    return "; ".join(parts)
