"""``ActionHandler``: the interface between a run and the actions on its verdicts; and one that does nothing."""

from __future__ import annotations

from typing import Protocol

from nsfwd.scanning.index.file_result import Judged


class ActionHandler(Protocol):
    """Performs the actions on verdicts.

    The index alone is never enough for an action. A known file whose verdict calls for one that was not done yet (it
    was judged by a dry run, by a run that was killed, or before the action was configured) is asked about once more,
    and the action follows that reply: there may be an override by now.
    """

    @property
    def acted(self) -> int:
        """Files with an action done so far."""

    @property
    def failed(self) -> int:
        """Actions that failed so far; the next run tries them again."""

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Tell whether a verdict calls for an action. Called often, from any thread: quick and pure."""

    def done(self, path: bytes, digest: bytes) -> bool:
        """Tell whether all actions on this content at this path are done (the table ``action``)."""

    async def act(self, judged: Judged) -> None:
        """Act on one file with the status ``ok`` and any verdict, after its row is committed.

        Raises:
            BreakerOpen, ActionFailure, IndexFailure: the run must end now.
        """

    async def finish(self) -> None:
        """Wait for actions that are under way; the run ends."""


class NullActionHandler:
    """An action handler that does nothing."""

    acted = 0
    failed = 0

    def wants(self, verdict: str, alarm: bool) -> bool:
        """No verdict calls for an action."""
        return False

    def done(self, path: bytes, digest: bytes) -> bool:
        """No action is left to do."""
        return True

    async def act(self, judged: Judged) -> None:
        """Do nothing."""

    async def finish(self) -> None:
        """Do nothing."""
