"""Answers operations, the requests other than scans: ``ping``, ``stats``, ``cancel``, ``reload`` and others.

Most of them are a function of what all connections share (``OPERATIONS``). ``cancel`` concerns the requests of one
connection, and ``reload`` takes time. Knows no socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from nsfwd.errors import CodedError
from nsfwd.protocol import limits
from nsfwd.server.context import ServerContext
from nsfwd.server.peer_credentials import Peer
from nsfwd.server.requests import Host, Request

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.protocol.events import OperationRequest, Turn

_log = logging.getLogger("nsfwd.server")

VERSION = version("nsfwd")

_LIMIT_SETTINGS = (
    "max_bytes",
    "max_pixels",
    "min_side",
    "max_frames",
    "max_depth",
    "max_entries",
    "max_connections",
    "queue",
    "deadline",
    "decode_timeout",
    "idle_timeout",
    "write_stall",
    "body_memory",
)


def _ping(_service: ServerContext, _peer: Peer) -> dict[str, Any]:
    return {}


def _ready(service: ServerContext, _peer: Peer) -> dict[str, Any]:
    readiness = service.pipeline.status.readiness()
    return {"ready": readiness["ready"], "why": readiness.get("why", "")}


def _version(service: ServerContext, peer: Peer) -> dict[str, Any]:
    return {
        "protocol": limits.PROTOCOL,
        "version": VERSION,
        "operations": sorted(peer.operations),
        "limits": {
            "text_line": limits.TEXT_LINE,
            "json_line": limits.JSON_LINE,
            "id_bytes": limits.ID_BYTES,
            "window": limits.WINDOW,
            **{name: getattr(service.settings, name) for name in _LIMIT_SETTINGS},
        },
        "models": {bundle.name: bundle.model_identity for bundle in service.bundles},
    }


def _models(service: ServerContext, _peer: Peer) -> dict[str, Any]:
    return {"models": [describe(bundle) for bundle in service.bundles]}


def describe(bundle: Bundle) -> dict[str, Any]:
    """Describe a bundle as the operation ``models`` does."""
    output, policy = bundle.manifest.output, bundle.policy
    return {
        "name": bundle.name,
        "model": bundle.model_identity,
        "policy": bundle.policy_identity,
        "description": bundle.manifest.description,
        "labels": [label for label in output.labels if label not in output.hidden],
        "groups": {group: list(labels) for group, labels in policy.groups.items()},
        "tiers": [
            {"name": tier.name, "group": tier.group, "threshold": tier.threshold, "alarm": tier.alarm}
            for tier in policy.tiers
        ],
    }


def numbers(service: ServerContext) -> dict[str, Any]:
    """Return every number of the daemon, those of the pipeline and those of the sockets."""
    stats = service.pipeline.status.stats()
    return {
        **stats,
        "budgets": {**service.budgets.stats(), **stats.get("budgets", {})},
        "server": service.metrics.snapshot(),
        "peers": service.quotas.stats(),
    }


def _stats(service: ServerContext, _peer: Peer) -> dict[str, Any]:
    return numbers(service)


def _poison(service: ServerContext, _peer: Peer) -> dict[str, Any]:
    return {"poison": service.pipeline.status.poisoned()}


def _clear_poison(service: ServerContext, _peer: Peer) -> dict[str, Any]:
    return {"cleared": service.pipeline.status.clear_poison()}


OPERATIONS: dict[str, Callable[[ServerContext, Peer], dict[str, Any]]] = {
    "ping": _ping,
    "ready": _ready,
    "version": _version,
    "models": _models,
    "stats": _stats,
    "poison": _poison,
    "clear_poison": _clear_poison,
}


class OperationHost(Host, Protocol):
    """The connection that an operation came on.

    Attributes:
        reloads: how many of its reloads are not answered; they count in its window.
        requests: its scans that are not answered in full.
    """

    peer: Peer
    reloads: int
    requests: dict[Turn, Request]

    @property
    def closed(self) -> bool:
        """Whether the peer is gone."""

    def wake_series(self) -> None:
        """Have the requests for many images look again whether they may go on."""


def answer(host: OperationHost, event: OperationRequest) -> None:
    """Answer one operation, at once or when it is done."""
    service, session, turn, operation = host.service, host.session, event.turn, event.operation
    service.metrics.operations_total += 1
    try:
        if operation.op == "cancel":
            _cancel(host, turn, operation.target)
        elif operation.op == "reload":
            service.begin_reload().add_done_callback(partial(_reloaded, host, turn))
            host.reloads += 1
        else:
            session.operation(turn, OPERATIONS[operation.op](service, host.peer))
    except CodedError as error:
        session.fail(turn, error, 0.0)
    except Exception:
        _log.exception("a defect in the operation %s", operation.op)
        session.fail(turn, CodedError("internal"), 0.0)


def _cancel(host: OperationHost, turn: Turn, target: str | int | None) -> None:
    found = [
        request
        for request in host.requests.values()
        if request.turn.id == target and type(request.turn.id) is type(target) and target is not None
    ]
    if not found:
        raise CodedError("no_target")
    for request in found:
        request.claim.cancel("cancelled")
    host.wake_series()
    host.session.operation(turn, {"target": target})


def _reloaded(host: OperationHost, turn: Turn, task: asyncio.Future[dict[str, Any]]) -> None:
    host.reloads -= 1
    if host.closed:
        return
    error = CodedError("draining") if task.cancelled() else task.exception()
    if error is None:
        host.session.operation(turn, task.result())
    else:
        host.session.fail(turn, error if isinstance(error, CodedError) else CodedError("internal"), 0.0)
    host.changed()
