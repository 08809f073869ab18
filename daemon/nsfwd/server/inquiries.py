"""The requests of a connection that are no scans, answered: most from ``operations``, two that are about more.

``cancel`` is about the requests of the same connection, and ``reload`` takes time. Knows no socket.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from nsfwd.errors import CodedError
from nsfwd.server.operations import OPERATIONS
from nsfwd.server.requests import Host, Request

if TYPE_CHECKING:
    from nsfwd.protocol.events import OperationRequest, Turn
    from nsfwd.server.peer_credentials import Peer

_log = logging.getLogger("nsfwd.server")


class OperationHost(Host, Protocol):
    """The connection that was asked.

    Attributes:
        reloads: asked for and not answered; they count in its window.
        requests: its scans that are not answered in full.
    """

    peer: Peer
    reloads: int
    requests: dict[Turn, Request]

    @property
    def closed(self) -> bool:
        """Whether nobody is there any more."""

    def wake_series(self) -> None:
        """What the series under way may wait for has changed."""


def answer(asked: OperationHost, event: OperationRequest) -> None:
    """Answer one request, at once or when it is done."""
    service, session, turn, operation = asked.service, asked.session, event.turn, event.operation
    service.metrics.operations_total += 1
    try:
        if operation.op == "cancel":
            _cancel(asked, turn, operation.target)
        elif operation.op == "reload":
            service.begin_reload().add_done_callback(partial(_reloaded, asked, turn))
            asked.reloads += 1
        else:
            session.operation(turn, OPERATIONS[operation.op](service, asked.peer))
    except CodedError as error:
        session.fail(turn, error, 0.0)
    except Exception:
        _log.exception("a defect in the operation %s", operation.op)
        session.fail(turn, CodedError("internal"), 0.0)


def _cancel(asked: OperationHost, turn: Turn, target: str | int | None) -> None:
    found = [
        request
        for request in asked.requests.values()
        if request.turn.id == target and type(request.turn.id) is type(target) and target is not None
    ]
    if not found:
        raise CodedError("no_target")
    for request in found:
        request.claim.cancel("cancelled")
    asked.wake_series()
    asked.session.operation(turn, {"target": target})


def _reloaded(asked: OperationHost, turn: Turn, task: asyncio.Future[dict[str, Any]]) -> None:
    asked.reloads -= 1
    if asked.closed:
        return
    error = CodedError("draining") if task.cancelled() else task.exception()
    if error is None:
        asked.session.operation(turn, task.result())
    else:
        asked.session.fail(turn, error if isinstance(error, CodedError) else CodedError("internal"), 0.0)
    asked.changed()
