"""``nsfwd sweep``: trees in, an index of verdicts out, and an exit code for timers.

The sweep itself is ``scanning.sweeps``; here are its flags, its signals, its progress and its summary.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.action_options import action_options, actor
from nsfwd.cli.options.daemon_commands import connect_option
from nsfwd.cli.options.job_option import job_option
from nsfwd.cli.options.long_runs import reporting, run_until_signal
from nsfwd.cli.options.notices import notice
from nsfwd.cli.options.param_types import Clock, Duration, FiniteRange
from nsfwd.cli.options.tree_options import send_option, tree_of, tree_options
from nsfwd.quantities import format_count, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nsfwd.scanning.submission.action_handler import ActionHandler
    from nsfwd.scanning.sweeps.sweep import SweepPlan, SweepProgress
    from nsfwd.scanning.trees.walk import WalkedTree

TEXT = """\b
Exit codes: 0 nothing found, 1 an alarm, 2 an image left unscored by this run,
3 stopped by the circuit breaker, 4 an action failed (a hook, for example; the
next sweep tries again), 64 wrong usage, 69 no daemon, 70 a defect, 74 the index
or the quarantine cannot be written, 75 another sweep of the same tree is
running, 78 the job is invalid, 130 interrupted. Of several the first of 130, 4,
1, 2. A recorded error that has not changed does not fail a run again; an alarm
that still exists does."""


@click.command(epilog=TEXT)
@tree_options
@connect_option
@click.option("--wait", is_flag=True, help="Wait also at the start for a daemon that does not answer yet.")
@click.option("--until", "clock", type=Clock(), help="Time of day to pause at; the next sweep continues.")
@click.option("--for", "seconds", type=Duration(), help="Time to pause after, such as 5h or 90m.")
@click.option("--rate", type=FiniteRange(min=0, min_open=True), help="Largest number of requests per second.")
@click.option("--again", is_flag=True, help="Retry files that were left without scores.")
@send_option
@action_options
@click.option("--strict", is_flag=True, help="Exit 2 before 1.")
@job_option
@click.option("-q", "--quiet", is_flag=True, help="No summary and no progress.")
def sweep(directories: tuple[bytes, ...], **flags: Any) -> int:
    """Scan trees in the background, and keep an index.

    The index keeps the results. A file that has not changed since its scan is not scanned again, nor is a copy of it. A
    sweep that was stopped or killed continues where it was. It gives way to other work: it uses the daemon's background
    lane, and the disk when that is idle. Index and quarantine are left out.

    With --action and --apply it acts on alarms: nothing is deleted, and a run that would act on too many files stops
    first.

    \b
    Example:
      nsfwd sweep /srv/uploads --until 06:00
      nsfwd sweep /srv/uploads --action quarantine --apply
      nsfwd index stats
    """
    plan = _plan(tree_of(directories, flags), flags)
    acting = actor(flags, plan.tree.roots)
    return run(flags["index"], plan, acting, strict=flags["strict"], quiet=flags["quiet"])


def _plan(tree: WalkedTree, flags: dict[str, Any]) -> SweepPlan:
    from nsfwd.scanning.submission.scan_run import RunOptions
    from nsfwd.scanning.sweeps.pause import Pause
    from nsfwd.scanning.sweeps.sweep import SweepPlan

    limits = flags["clock"], flags["seconds"]
    own = {name: flags[name] for name in ("connect", "wait", "send", "again", "rate")}
    return SweepPlan(
        tree, RunOptions("sweep", tree.roots, say=notice, **own), pause=Pause(*limits) if any(limits) else None
    )


def run(
    index: Path, plan: SweepPlan, acting: Callable[[Any], ActionHandler], *, strict: bool = False, quiet: bool = False
) -> int:
    """Run a sweep from the command line and return its exit code.

    Args:
        acting: makes the action handler of the open index.
    """
    from dataclasses import replace

    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.sweeps.sweep import lower_priority
    from nsfwd.scanning.sweeps.sweep import sweep as sweep_trees

    index.parent.mkdir(parents=True, exist_ok=True)
    lower_priority()
    with Index(index) as opened, reporting(quiet=quiet) as (show, ready):
        if ready is not None:
            ready("sweeping")
        shown = replace(plan, count=plan.pause is not None or show is not None)
        if show is not None:
            shown = replace(shown, shown=lambda progress: show(line(progress)))
        handler = acting(opened)
        progress, number = run_until_signal(lambda stop: sweep_trees(opened, shown, handler, stop=stop))
    if progress is None:
        return exit_codes.INTERRUPTED
    if not quiet:
        for text in summary(progress):
            click.echo(text, err=True)
    if number == signal.SIGINT:
        return exit_codes.INTERRUPTED
    if progress.failed:
        return exit_codes.ACTION
    if progress.unscored and strict:
        return exit_codes.UNSCORED
    if progress.alarming:
        return exit_codes.ALARM
    return exit_codes.UNSCORED if progress.unscored else exit_codes.OK


def line(progress: SweepProgress) -> str:
    """Return the progress in one line."""
    counts = progress.counts
    of = f" of {format_count(progress.total)}" if progress.total else ""
    rate = counts.found / progress.seconds if progress.seconds > 0 else 0.0
    speed = format_count(round(rate))
    parts = [f"{format_count(counts.found)}{of} files, {speed}/s", f"{format_count(counts.ok)} scored"]
    if counts.alarms:
        parts.append(f"{format_count(counts.alarms)} alarms")
    if counts.errors:
        parts.append(f"{format_count(counts.errors)} errors")
    if progress.total and rate and progress.total > counts.found:
        parts.append(f"{format_duration((progress.total - counts.found) / rate)} left")
    return "; ".join(parts) + (" (waiting for the daemon)" if progress.waiting else "")


def summary(progress: SweepProgress) -> Iterator[str]:
    """Yield the lines of the summary."""
    counts = progress.counts
    buckets = ("unchanged", "known", "ok", "skipped", "errors", "excluded")
    words = {"known": "of known content", "ok": "scored"}
    parts = [f"{getattr(counts, name)} {words.get(name, name)}" for name in buckets if getattr(counts, name)]
    took = format_duration(progress.seconds)
    yield f"run {progress.run}: {counts.found} files in {took}: {', '.join(parts) or 'nothing'}"
    new = f" ({counts.alarms} new)" if counts.alarms != progress.alarming else ""
    others = {
        f"{progress.alarming} alarm{'s' if progress.alarming != 1 else ''}{new}": progress.alarming,
        f"{progress.rejudged} with another verdict by the new policy": progress.rejudged,
        f"{progress.gone} no longer exist": progress.gone,
        f"{progress.unreadable} directories that cannot be read": progress.unreadable,
        f"{progress.failed} actions failed; the next sweep tries again": progress.failed,
        f"{progress.foreign} directories on other file systems not entered (--cross)": progress.foreign,
    }
    if said := [text for text, number in others.items() if number]:
        yield f"run {progress.run}: " + "; ".join(said)
    if progress.why in ("paused", "interrupted"):
        yield f"{progress.why}, {_far(progress)}"


def _far(progress: SweepProgress) -> str:
    """Return how far the sweep came, and how many runs like this one are left."""
    counts = progress.counts
    if not progress.total:
        return f"{format_count(counts.found)} files so far"
    left = max(0, progress.total - counts.found)
    far = f"{format_count(counts.found)} of {format_count(progress.total)}"
    if not counts.settled:
        return far
    nights = -(-left // counts.settled)
    return f"{far}, ETA {nights} night{'s' if nights != 1 else ''}"
