"""Acts on the events of a session: one function for each kind. Knows no socket."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from nsfwd.budgets import FREE_LINE
from nsfwd.errors import CodedError
from nsfwd.logs import fields
from nsfwd.protocol.events import (
    BodyData,
    BodyEnd,
    BodyStart,
    Event,
    Handled,
    OperationRequest,
    Quit,
    Rejected,
    ScanRequest,
    Turn,
)
from nsfwd.protocol.messages import Paths
from nsfwd.server.attachments import NO_ATTACHMENT
from nsfwd.server.operations import OperationHost, answer
from nsfwd.server.quotas import NOT_WELCOME
from nsfwd.server.requests import Request
from nsfwd.server.step_scheduler import OPERATION

if TYPE_CHECKING:
    from nsfwd.server.attachments import Attachments

_log = logging.getLogger("nsfwd.server")


class Heard(OperationHost, Protocol):
    """The connection whose peer said something.

    Attributes:
        active: loop time at which the peer was last heard.
        attachments: what came along with requests.
        parked: the request that waits until its quota has room.
        requests: under way.
    """

    active: float
    attachments: Attachments
    parked: ScanRequest | None
    requests: dict[Turn, Request]


def handle(heard: Heard, event: Event) -> bool:
    """Act on one event; return whether it took no more than a place among the requests."""
    return _HANDLERS[type(event)](heard, event) or False


def _on_scan(heard: Heard, event: ScanRequest) -> bool:
    turn, scan, quota = event.turn, event.scan, heard.quota
    if not scan.many and not quota.may_begin(heard.changed):
        heard.parked = event
        return False
    heard.service.metrics.requests_total += 1
    size = 0
    try:
        quota.ask()
        if not scan.many:
            quota.spend()
        else:
            size = heard.holdings.begin_series(scan.images.size if isinstance(scan.images, Paths) else 0)
        scan, attachment = heard.attachments.take(turn, scan, heard.active)
    except CodedError as error:
        heard.attachments.drop(turn)
        heard.session.fail(turn, error, 0.0)
        return False
    heard.requests[turn] = Request(heard, turn, scan, attachment=attachment, size=size)
    return not size and attachment is NO_ATTACHMENT


def _on_operation(heard: Heard, event: OperationRequest) -> None:
    heard.service.scheduler.left -= OPERATION - 1
    if heard.quota.barred:
        heard.session.fail(event.turn, CodedError("not_permitted", NOT_WELCOME), 0.0)
    else:
        answer(heard, event)


def _on_body_start(heard: Heard, event: BodyStart) -> None:
    heard.service.metrics.bodies_total += 1
    heard.attachments.start(event.size, heard.active)
    inside = heard.session.unread  # the image itself, where it came in a line
    if inside > FREE_LINE and not heard.holdings.has_room_to_hear(inside):
        heard.holdings.refuse_line()
        heard.attachments.refuse()


def _on_body_data(heard: Heard, event: BodyData) -> None:
    heard.attachments.write(event.data, heard.active)


def _on_rejected(heard: Heard, event: Rejected) -> None:
    service, peer = heard.service, heard.peer
    service.metrics.rejected_total += 1
    heard.attachments.drop(event.turn)
    if event.error.code == "http":
        service.metrics.http_total += 1
        _log.warning("%s speaks HTTP to a line protocol; closed", peer.name, extra=fields(peer.guard, burst=1))
    else:
        _log.debug("%s: refused a line: %s", peer.name, event.error)


_HANDLERS: dict[type[Any], Callable[[Heard, Any], bool | None]] = {
    ScanRequest: _on_scan,
    OperationRequest: _on_operation,
    BodyStart: _on_body_start,
    BodyData: _on_body_data,
    BodyEnd: lambda _heard, _event: None,  # the scan that follows takes the body
    Rejected: _on_rejected,
    Quit: lambda _heard, _event: None,  # the session finishes by itself
    Handled: lambda _heard, _event: None,
}
