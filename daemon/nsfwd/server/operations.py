"""The requests that are no scans: one function for each, from what all connections share to what the reply says.

``cancel`` is not here: it is about the requests of one connection, which answers it. Nor is ``reload``: it takes time.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from nsfwd.protocol import limits
from nsfwd.server.context import ServerContext
from nsfwd.server.peer_credentials import Peer

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle

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
        "peers": service.peering.stats(),
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
