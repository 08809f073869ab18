"""The flags of ``sweep`` and ``watch`` for actions on verdicts, and the action handler that they make."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nsfwd.cli.options.default_paths import quarantine_option, to_option
from nsfwd.cli.options.notices import result
from nsfwd.cli.options.param_types import Duration, FiniteRange

if TYPE_CHECKING:
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.submission.action_handler import ActionHandler

_Command = TypeVar("_Command", bound=Callable[..., Any])

KINDS = ("log", "copy", "hook", "move", "quarantine")


class Words(click.ParamType[tuple[str, ...]]):
    """A program and its arguments: text split as a shell would, never run by one, or a list."""

    name = "COMMAND"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return program and arguments."""
        if not isinstance(value, str):
            return tuple(map(str, value))
        try:
            words = tuple(shlex.split(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        if not words:
            self.fail("missing program", param, ctx)
        return words


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--action",
        "actions",
        multiple=True,
        type=click.Choice(KINDS),
        help="Action on an alarm. May be given several times. No action deletes a file.",
    ),
    click.option(
        "--on",
        multiple=True,
        metavar="VERDICT",
        help="Verdict to act on instead of alarms. May be given several times.",
    ),
    click.option("--apply", is_flag=True, help="Run the actions; without this flag they are only printed."),
    quarantine_option,
    to_option,
    click.option("--placeholder", is_flag=True, help="Replace a moved or quarantined file by a grey picture."),
    click.option(
        "--hook",
        type=Words(),
        help="Program and arguments of --action hook; it reads the reply as JSON. No shell.",
    ),
    click.option("--hook-jobs", type=click.IntRange(min=1), help="Hooks running at once.  [default: 4]"),
    click.option(
        "--hook-rate", type=FiniteRange(min=0, min_open=True), help="Hooks started per second.  [default: 10]"
    ),
    click.option("--hook-timeout", type=Duration(), help="Time limit of a hook.  [default: 1m]"),
    click.option(
        "--max-actions",
        type=click.IntRange(min=0),
        help="Limit of files to act on; beyond it the run stops with exit code 3.  [default: 100]",
    ),
    click.option(
        "--max-share",
        type=FiniteRange(0, 100),
        metavar="PERCENT",
        help="Limit of files to act on, as a share of the judged files; ten are always allowed.  [default: 1]",
    ),
)


def action_options(command: _Command) -> _Command:
    """Add the flags; ``actor`` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def actor(
    flags: Mapping[str, Any], roots: Sequence[bytes], *, window: float | None = None
) -> Callable[[Index], ActionHandler]:
    """Return the function that makes the action handler of an open index.

    Args:
        window: seconds that the limits of the circuit breaker apply to; None for the whole run.

    Raises:
        click.UsageError: the flags contradict each other.
    """
    _check(flags)
    from nsfwd.scanning.submission.action_handler import NullActionHandler

    if not flags["actions"]:
        return lambda _: NullActionHandler()
    from nsfwd.scanning.actions.executor import ActionExecutor, ActionPlan

    plan = ActionPlan(
        kinds=tuple(flags["actions"]),
        on=frozenset(flags["on"]),
        apply=flags["apply"],
        quarantine=flags["quarantine"],
        to=flags["to"],
        placeholder=flags["placeholder"],
        hook=_hook(flags),
        limits=_limits(flags, window),
    )
    return lambda index: ActionExecutor(index, plan, roots=roots, say=result)


def _check(flags: Mapping[str, Any]) -> None:
    kinds = set(flags["actions"])
    if not kinds:
        for name in ("on", "apply", "to", "placeholder", "hook"):
            if flags[name]:
                raise click.UsageError(f"--{name} needs --action")
    if {"move", "quarantine"} <= kinds:
        raise click.UsageError("--action move and --action quarantine exclude each other")
    if kinds & {"copy", "move"} and flags["to"] is None:
        raise click.UsageError("--action copy and --action move need --to")
    if ("hook" in kinds) != (flags["hook"] is not None):
        raise click.UsageError("--action hook and --hook need each other")


def _hook(flags: Mapping[str, Any]) -> Any:
    from nsfwd.scanning.actions.hook import CONCURRENCY, RATE, TIMEOUT, HookSettings

    if flags["hook"] is None:
        return None
    return HookSettings(
        flags["hook"],
        concurrency=flags["hook_jobs"] or CONCURRENCY,
        rate=flags["hook_rate"] or RATE,
        timeout=flags["hook_timeout"] or TIMEOUT,
    )


def _limits(flags: Mapping[str, Any], window: float | None) -> Any:
    from nsfwd.scanning.actions.breaker import MOST, SHARE, Limits

    most, share = flags["max_actions"], flags["max_share"]
    return Limits(MOST if most is None else most, SHARE if share is None else share / 100, window)
