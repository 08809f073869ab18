"""``ActionHandler``: what a run over files wants of whoever acts on its verdicts; and one who does nothing."""

from __future__ import annotations

from typing import Protocol

from nsfwd.scanning.index.file_result import Judged


class ActionHandler(Protocol):
    """Does what is to be done about a verdict.

    Nothing is done on the word of the index alone. A file that it knows with a verdict that is wanted, and to which
    nothing was done yet (it was judged by a dry run, by a run that was killed, or before the action was asked for), is
    asked about once more, and that reply is acted on: an override may have been made meanwhile.
    """

    @property
    def acted(self) -> int:
        """Files on which something was done so far."""

    @property
    def failed(self) -> int:
        """Things that were to be done and could not be, so far; the next run tries them again."""

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Tell whether it has something to do about such a verdict. Called often, from any thread: quick and pure."""

    def done(self, path: bytes, digest: bytes) -> bool:
        """Tell whether it did all it would to this content at this path (the table ``action``)."""

    async def act(self, judged: Judged) -> None:
        """Act on one file with the status ``ok``, whatever its verdict, after its row is committed.

        Raises:
            BreakerOpen, ActionFailure, IndexFailure: the run must end now.
        """

    async def finish(self) -> None:
        """Wait for what was begun; the run ends."""


class NullActionHandler:
    """An actor that does nothing."""

    acted = 0
    failed = 0

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Nothing is of interest."""
        return False

    def done(self, path: bytes, digest: bytes) -> bool:
        """Nothing is left to be done."""
        return True

    async def act(self, judged: Judged) -> None:
        """Do nothing."""

    async def finish(self) -> None:
        """Do nothing."""
