"""The client's half of the NDJSON protocol without any I/O: requests out, replies in, matched by id.

Both clients stand on it: they move the bytes, it says which bytes and what those that came in mean. Lines that do not
start with ``{`` (greeting, prompts) are passed over. What was refused for now is asked again when the daemon said that
it may be, and what a lost connection left unanswered is asked again on the next one: no reply means not done. It knows
no socket, no clock (callers pass the time) and no task.
"""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, field
from typing import Any

from nsfwd.client.inbox import Inbox
from nsfwd.client.results import cut_short, reply_path, to_done, to_reply
from nsfwd.client.scan_inputs import Encoded, Item, Opened, Options, Passing, Path, Tree, path_keys, wire_name
from nsfwd.errors import CodedError, ConnectionLost, NsfwdError, Status
from nsfwd.protocol import jsonio
from nsfwd.protocol.limits import WINDOW
from nsfwd.quantities import MIB

LONGEST_REPLY = 16 * MIB
"""A longer line comes from something other than nsfwd: the longest reply is ``version`` or ``models``, some KiB."""

BODIES = 64 * MIB
"""Bytes of images in flight; one more waits. What the daemon takes of one connection by default, too."""

PUT_OFF = 512
"""Refused requests that wait to be asked again; with so many, nothing more is read. A directory whose files are all
refused must not pile them up here; and the daemon takes so many at once before anything is read again."""

TRIES = 3
"""A request that was on so many connections when they were lost is not sent on another: it may be what ends them."""

SOONEST = 0.05
"""Seconds before a refused request is sent again, however soon the daemon says."""

GRACE = 5.0
"""Seconds that a deadline's own reply may take to come; a daemon that is silent beyond them is stalled."""

LONGEST_SILENCE = 600.0
"""Seconds of silence after which a daemon is stalled where a request has no deadline, as in the background lane: it
gets a share of the daemon at any load, and the longest reload ends by then."""


@dataclass(slots=True, eq=False)
class _Request:
    inbox: Inbox
    path: str = ""
    series: bool = False
    operation: bool = False
    keys: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""
    descriptor: int | None = None
    owner: Opened | None = None  # keeps the descriptor open until there is a reply
    begun: bool = False  # a part of its reply was delivered: it cannot be asked again
    tries: int = 0
    give_up: float | None = None  # when a refusal is taken for the answer

    @property
    def names_path(self) -> bool:
        """Whether it may turn out to be about a directory."""
        return "path" in self.keys or "path_bytes" in self.keys


class ClientCore:
    """One caller's requests and replies, over one connection at a time. Not thread-safe.

    Args:
        patience: seconds within which a refused request is sent again, at the time that the daemon named.
        descriptors: whether they can go along on the connection.

    Attributes:
        complaint: what the daemon said to nobody in particular on this connection.
        barred: it was that this caller may ask nothing: another connection would not help.
        held: when a daemon that took no connection may be tried again; 0 if it took this one.
    """

    def __init__(self, patience: float = 0.0, *, descriptors: bool = False) -> None:
        self._patience = patience
        self._descriptors = descriptors
        self._next_id = 1
        self._requests: dict[int, _Request] = {}
        self._later: list[tuple[float, int]] = []
        self._outgoing: list[bytes] = []
        self._partial = b""
        self._bodies = 0
        self.complaint = ""
        self.barred = False
        self.held = 0.0

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def full(self) -> bool:
        """Whether more should wait: the daemon would stop reading, or has just refused; read replies first."""
        return len(self._requests) >= WINDOW or bool(self._later) or self._bodies >= BODIES

    @property
    def due(self) -> float | None:
        """When ``wake`` is to be called, on the clock of ``receive_data``; None while nothing waits for its time."""
        return self._later[0][0] if self._later else None

    @property
    def glutted(self) -> bool:
        """Whether to read no more before ``due``: so much was refused already."""
        return len(self._later) >= PUT_OFF

    @property
    def expected(self) -> bool:
        """Whether the daemon owes anything."""
        return len(self._requests) > len(self._later)

    @property
    def longest(self) -> float:
        """Seconds within which something must arrive: the latest deadline, or more where a request has none."""
        deadlines = [request.keys.get("deadline") for request in self._requests.values() if not request.operation]
        known = [deadline for deadline in deadlines if isinstance(deadline, (int, float))]
        return max(known) + GRACE if known and len(known) == len(deadlines) else LONGEST_SILENCE

    def scan_path(self, inbox: Inbox, path: Path, options: Options, *, recursive: bool = False) -> None:
        """Ask for the scores of a path of the server: a file, or a directory's files."""
        keys: dict[str, Any] = {"recursive": True} if recursive else {}
        keys |= path_keys(path)
        self._ask(_Request(inbox, os.fsdecode(path), series=recursive, keys={**keys, **options.keys()}))

    def scan_bytes(self, inbox: Inbox, data: bytes, options: Options, *, name: str = "") -> None:
        """Ask for the scores of an encoded image: its bytes follow the line."""
        self._bodies += len(data)
        self._ask(_Request(inbox, name, keys={"bytes": len(data), **options.keys()}, body=data))

    def scan_fd(
        self, inbox: Inbox, descriptor: int, options: Options, *, name: str = "", owner: Opened | None = None
    ) -> None:
        """Ask for the scores of an open file: its descriptor goes along with the line.

        Raises:
            NsfwdError: it cannot; the caller's fault.
        """
        if not self._descriptors:
            raise NsfwdError("descriptors pass over a Unix socket only")
        # A name that is not UTF-8 stays here: the reply, which then has none, gets it back.
        text = wire_name(name)
        named = {"name": text} if text else {}
        keys = {"fd": True, **named, **options.keys()}
        self._ask(_Request(inbox, name, keys=keys, descriptor=descriptor, owner=owner))

    def scan_any(self, inbox: Inbox, what: Item, options: Options, *, recursive: bool = False) -> None:
        """Ask for the scores of a path, of an encoded image or of an open file."""
        if isinstance(what, Encoded):
            self.scan_bytes(inbox, what.data, options, name=what.name)
        elif isinstance(what, Opened):
            self.scan_fd(inbox, what.descriptor, options, name=what.name, owner=what)
        elif isinstance(what, Tree):
            self.scan_path(inbox, what.path, options, recursive=True)
        else:
            self.scan_path(inbox, what, options, recursive=recursive)

    def operation(self, inbox: Inbox, op: str) -> None:
        """Ask for an operation; its reply becomes ``inbox.answer``."""
        self._ask(_Request(inbox, operation=True, keys={"op": op}))

    def abandon(self, inbox: Inbox) -> None:
        """Forget a caller that has left, and cancel what it asked for."""
        inbox.unwanted = True
        inbox.replies.clear()
        waiting = {number for _, number in self._later}
        for number, request in list(self._requests.items()):
            if request.inbox is not inbox:
                continue
            if number in waiting:
                self._forget(number)
            elif not request.operation:
                self._ask(_Request(Inbox(unwanted=True), operation=True, keys={"op": "cancel", "target": number}))
        self._later = [entry for entry in self._later if entry[1] in self._requests]
        heapq.heapify(self._later)

    def restart(self, *, descriptors: bool = False) -> None:
        """Begin anew on another connection: what had no reply is asked again, what nobody waits for is forgotten.

        Raises:
            ConnectionLost: a part of a reply was delivered, a request was lost too often, or its descriptor cannot go
                along any more. Not done: its caller may ask again.
        """
        self._descriptors = descriptors
        lost = not self.held  # and not turned away before it was looked at
        self._partial, self.complaint, self.held = b"", "", 0.0
        self._outgoing.clear()
        waiting = {number for _, number in self._later}
        for number, request in list(self._requests.items()):
            if request.inbox.unwanted:
                self._forget(number)
            elif number not in waiting:
                request.tries += lost
                if request.begun:
                    raise ConnectionLost(f"the connection was lost in the middle of {request.path or 'a reply'}")
                if request.descriptor is not None and not descriptors:
                    raise ConnectionLost(f"{request.path or 'a descriptor'} can be passed over a Unix socket only")
                if request.tries >= TRIES:
                    raise ConnectionLost(f"{TRIES} connections were lost before there was a reply")
                self._send(number, request)

    def wake(self, now: float) -> None:
        """Ask again what was refused and may be asked by now."""
        while self._later and self._later[0][0] <= now:
            _, number = heapq.heappop(self._later)
            self._send(number, self._requests[number])

    def data_to_send(self) -> list[bytes]:
        """Take what is to be written now."""
        chunks, self._outgoing = self._outgoing, []
        return chunks

    def receive_data(self, data: bytes, now: float = 0.0) -> None:
        """Sort what arrived at the time ``now`` into the inboxes.

        Raises:
            ConnectionLost: the peer is not nsfwd.
        """
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LONGEST_REPLY:
            raise ConnectionLost("the peer sent a line without end; it is not nsfwd")
        for line in lines:
            if line.startswith(b"{"):
                self._receive_line(line, now)

    def _ask(self, request: _Request) -> None:
        self._send(self._enter(request), request)

    def _enter(self, request: _Request) -> int:
        number, self._next_id = self._next_id, self._next_id + 1
        self._requests[number] = request
        request.inbox.pending += 1
        return number

    def _send(self, number: int, request: _Request) -> None:
        line = jsonio.dumps({"id": number, **request.keys}) + b"\n"
        self._outgoing.append(line if request.descriptor is None else Passing(line, request.descriptor))
        if request.body:
            self._outgoing.append(request.body)

    def _forget(self, number: int) -> _Request:
        request = self._requests.pop(number)
        self._bodies -= len(request.body)
        request.inbox.pending -= 1
        request.inbox.changed()
        return request

    def _receive_line(self, line: bytes, now: float) -> None:
        try:
            message = jsonio.loads(line)
        except CodedError as error:
            raise ConnectionLost("the peer sent a line that is not JSON; it is not nsfwd") from error
        if not isinstance(message, dict):
            raise ConnectionLost("the peer sent a line that is not a JSON object; it is not nsfwd")
        file = message.get("file")
        if isinstance(file, dict) and any(isinstance(value, float) for value in file.values()):
            message = jsonio.reread(line)  # the time of a file in more than 64 bits
        number = message.get("id")
        request = self._requests.get(number) if isinstance(number, int) else None
        if request is None:
            self._note_complaint(message, now)
        else:
            self._take(number, request, message, now)

    def _take(self, number: int, request: _Request, message: dict[str, Any], now: float) -> None:
        if self._postponed(number, request, message, now):
            return
        if not request.inbox.unwanted:
            request.begun = True
            _deliver(request, message)
        if _ends(request, message):
            self._forget(number)
        else:
            request.inbox.changed()

    def _postponed(self, number: int, request: _Request, message: dict[str, Any], now: float) -> bool:
        """Put off what was refused and may be asked again within the patience: a request, or one file of a series."""
        after = message.get("retry_after")
        if message.get("status") != Status.REFUSED or not isinstance(after, int | float) or request.inbox.unwanted:
            return False
        whole = _ends(request, message)
        if whole and request.begun:
            return False
        again = now + max(after, SOONEST)
        give_up = now + min(self._patience, request.keys.get("deadline") or self._patience)
        if whole and request.give_up is not None:
            give_up = request.give_up
        if again > give_up:
            return False
        if not whole:
            request.begun = True
            request = _part(request, reply_path(message))
            number = self._enter(request)
        request.give_up = give_up
        heapq.heappush(self._later, (again, number))
        return True

    def _note_complaint(self, message: dict[str, Any], now: float) -> None:
        """Keep what the daemon says to nobody in particular, such as why it is about to close.

        When it takes no connection for now, everything that was asked on this one is refused.
        """
        if message.get("id") is not None or message.get("status") not in (Status.ERROR, Status.REFUSED):
            return
        complaint = to_reply(message)
        self.complaint, self.barred = complaint.message, complaint.code == "not_permitted"
        after = message.get("retry_after")
        if message.get("status") == Status.REFUSED and isinstance(after, int | float):
            self.held = now + max(after, SOONEST)
            waiting = {number for _, number in self._later}
            for number, request in list(self._requests.items()):
                if number not in waiting and not request.begun:
                    self._take(number, request, message, now)


def _part(series: _Request, path: str) -> _Request:
    """Return the request for one file of a series, by itself."""
    said = {key: value for key, value in series.keys.items() if key not in ("path", "path_bytes", "recursive")}
    return _Request(series.inbox, path, keys={**path_keys(path), **said})


def _ends(request: _Request, message: dict[str, Any]) -> bool:
    """Tell whether a request gets no more lines after this one.

    A path that turns out to be a directory gets lines of paths below it and then ``done``; a series ends with ``done``
    unless the request as a whole was turned down. Any other line with the request's id is its reply, however its path
    is written.
    """
    if request.operation or message.get("done"):
        return True
    said: dict[str, Any] = {key: message[key] for key in ("path_bytes", "path") if key in message}
    if said and request.names_path and _lies_below(reply_path(said), reply_path(request.keys)):
        return False
    return not (request.series and message.get("status") == Status.OK)


def _lies_below(path: str, directory: str) -> bool:
    return path != directory and path.startswith(directory.rstrip("/") + "/")


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
