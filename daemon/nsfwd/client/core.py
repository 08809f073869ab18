"""The client's half of the NDJSON protocol without any I/O: requests out, replies in, matched by id.

Both clients stand on it: they move the bytes, it says which bytes and what those that came in mean. Lines that do not
start with ``{`` (greeting, prompts) are passed over. It knows no socket, no clock and no task.
"""

from __future__ import annotations

import base64
import os
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from nsfwd.client.replies import Done, Reply, coded, cut_short, reply_path, to_done, to_reply
from nsfwd.errors import CodedError, ConnectionLost, NsfwdError, Status
from nsfwd.protocol import jsonio
from nsfwd.protocol.limits import MIB, WINDOW

LONGEST_REPLY = 16 * MIB
"""A longer line comes from something that is no nsfwd: the longest reply is ``version`` or ``models``, some KiB."""

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True, slots=True)
class Options:
    """What may be said about any scan.

    Attributes:
        lane: ``interactive``, ``normal`` or ``background``; None is the connection's own. It can only be lowered.
        deadline: seconds allowed for each; None is the daemon's default.
        identity: ask for the identity of the opened file (``Reply.file``).
    """

    lane: str | None = None
    deadline: float | None = None
    identity: bool = False

    def keys(self) -> dict[str, Any]:
        """Return the request keys that say this."""
        said: dict[str, Any] = {"lane": self.lane, "deadline": self.deadline, "identity": self.identity or None}
        return {key: value for key, value in said.items() if value is not None}


@dataclass(slots=True, eq=False)
class Inbox:
    """Where the replies of one call arrive; several requests may share one.

    Attributes:
        replies: not yet taken by the caller, in the order of arrival.
        done: how a directory ended. ``answer``: what an operation came to.
        pending: requests that have not ended.
        unwanted: the caller has left; what still arrives is dropped.
    """

    replies: deque[Reply] = field(default_factory=deque)
    done: Done | None = None
    answer: dict[str, Any] | None = None
    pending: int = 0
    unwanted: bool = False

    def changed(self) -> None:
        """Called after something arrived; an edge that sleeps overrides it to wake up."""

    def only_reply(self) -> Reply:
        """Return the reply of an ended request for one image.

        Raises:
            NsfwdError: it was a directory; the caller's fault.
        """
        if self.done is not None:
            raise NsfwdError(f"{self.done.path} is a directory; scan_dir scans those")
        return self.replies.popleft()

    def only_answer(self) -> dict[str, Any]:
        """Return what an ended operation came to, without the keys that every answer has.

        Raises:
            CodedError: the daemon turned the operation down.
        """
        message = self.answer or {}
        if message.get("status") != Status.OK:
            reply = to_reply(message)
            raise coded(reply.code, reply.message, reply.retry_after)
        return {key: value for key, value in message.items() if key not in ("id", "op", "status")}


@dataclass(frozen=True, slots=True)
class _Request:
    inbox: Inbox
    path: str = ""
    series: bool = False
    operation: bool = False


class ClientCore:
    """One connection's requests and replies. Not thread-safe; a new connection needs a new core."""

    def __init__(self) -> None:
        self._next_id = 1
        self._requests: dict[int, _Request] = {}
        self._outgoing: list[bytes] = []
        self._partial = b""
        self.complaint = ""

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def full(self) -> bool:
        """Whether the daemon would stop reading if it were sent more; read replies first."""
        return len(self._requests) >= WINDOW

    def scan_path(self, inbox: Inbox, path: Path, options: Options, *, recursive: bool = False) -> None:
        """Ask for the scores of a path of the server: a file, or a directory's files."""
        name = os.fsencode(path)
        keys: dict[str, Any] = {"recursive": True} if recursive else {}
        try:
            keys["path"] = name.decode("utf-8")
        except UnicodeDecodeError:
            keys["path_bytes"] = base64.b64encode(name).decode("ascii")
        self._ask(_Request(inbox, os.fsdecode(name), series=recursive), {**keys, **options.keys()})

    def scan_bytes(self, inbox: Inbox, data: bytes, options: Options) -> None:
        """Ask for the scores of an encoded image: its bytes follow the line."""
        self._ask(_Request(inbox), {"bytes": len(data), **options.keys()})
        if data:
            self._outgoing.append(data)

    def operation(self, inbox: Inbox, op: str) -> None:
        """Ask for an operation; its reply becomes ``inbox.answer``."""
        self._ask(_Request(inbox, operation=True), {"op": op})

    def abandon(self, inbox: Inbox) -> None:
        """Forget a caller that has left, and cancel what it asked for."""
        inbox.unwanted = True
        inbox.replies.clear()
        for number, request in list(self._requests.items()):
            if request.inbox is inbox and not request.operation:
                self._ask(_Request(Inbox(unwanted=True), operation=True), {"op": "cancel", "target": number})

    def data_to_send(self) -> list[bytes]:
        """Take what is to be written now."""
        chunks, self._outgoing = self._outgoing, []
        return chunks

    def receive_data(self, data: bytes) -> None:
        """Sort what arrived into the inboxes.

        Raises:
            ConnectionLost: the peer is no nsfwd.
        """
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LONGEST_REPLY:
            raise ConnectionLost("the peer sent a line without end; it is no nsfwd")
        for line in lines:
            if line.startswith(b"{"):
                self._receive_line(line)

    def _ask(self, request: _Request, keys: dict[str, Any]) -> None:
        number, self._next_id = self._next_id, self._next_id + 1
        self._requests[number] = request
        request.inbox.pending += 1
        self._outgoing.append(jsonio.dumps({"id": number, **keys}) + b"\n")

    def _receive_line(self, line: bytes) -> None:
        try:
            message = jsonio.loads(line)
        except CodedError as error:
            raise ConnectionLost("the peer sent a line that is no JSON; it is no nsfwd") from error
        number = message.get("id")
        request = self._requests.get(number) if isinstance(number, int) else None
        if request is None:
            self._note_complaint(message)
            return
        if _ends(request, message):
            del self._requests[number]
            request.inbox.pending -= 1
        if not request.inbox.unwanted:
            _deliver(request, message)
        request.inbox.changed()

    def _note_complaint(self, message: dict[str, Any]) -> None:
        """Keep what the daemon says to nobody in particular, such as why it is about to close."""
        if message.get("id") is None and message.get("status") in (Status.ERROR, Status.REFUSED):
            self.complaint = to_reply(message).message


def _ends(request: _Request, message: dict[str, Any]) -> bool:
    """Tell whether a request gets no more lines after this one.

    A path that turns out to be a directory gets lines of other paths and then ``done``; a series ends with ``done``
    unless the request as a whole was turned down.
    """
    if request.operation or message.get("done"):
        return True
    path = reply_path(message)
    own = not path or path == request.path
    return own and not (request.series and message.get("status") == Status.OK)


def _deliver(request: _Request, message: dict[str, Any]) -> None:
    inbox = request.inbox
    if request.operation:
        inbox.answer = message
    elif message.get("done"):
        inbox.done = to_done(message)
        if inbox.done.code:
            inbox.replies.append(cut_short(inbox.done))
    else:
        inbox.replies.append(to_reply(message, request.path))
