"""Collects the replies of one call of a client. Knows no connection."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from nsfwd.client.results import Done, Reply, coded, to_reply
from nsfwd.errors import NsfwdError, Status


@dataclass(slots=True, eq=False)
class Inbox:
    """The replies that have arrived for one call of a client, which may have sent several requests.

    Attributes:
        replies: not yet taken by the caller, in the order of arrival.
        done: the end of a directory.
        answer: the reply of an operation.
        pending: requests that have not ended.
        unwanted: the caller has left; what still arrives is dropped.
    """

    replies: deque[Reply] = field(default_factory=deque)
    done: Done | None = None
    answer: dict[str, Any] | None = None
    pending: int = 0
    unwanted: bool = False

    def changed(self) -> None:
        """Do nothing: called after something arrived, for clients that have to be woken."""

    def only_reply(self) -> Reply:
        """Return the reply of an ended request for one image.

        Raises:
            NsfwdError: it was a directory; the caller's fault.
        """
        if self.done is not None:
            raise NsfwdError(f"{self.done.path} is a directory; scan_dir scans those")
        return self.replies.popleft()

    def only_answer(self) -> dict[str, Any]:
        """Return the reply of an ended operation, without the keys that every reply has.

        Raises:
            CodedError: the daemon refused the operation.
        """
        message = self.answer or {}
        if message.get("status") != Status.OK:
            reply = to_reply(message)
            raise coded(reply.code, reply.message, reply.retry_after)
        return {key: value for key, value in message.items() if key not in ("id", "op", "status")}
