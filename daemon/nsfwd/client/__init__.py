"""Talking to the daemon from Python: ``Client`` for plain code, ``AsyncClient`` for asyncio.

    from nsfwd.client import Client

    with Client() as client:
        print(client.scan("/data/in/a.jpg").verdict)

Needs the standard library alone, and uses orjson where it is installed. Knows nothing of images and models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nsfwd.client.results import Done, Reply
from nsfwd.client.scan_inputs import Encoded, Opened, Options, Tree
from nsfwd.client.sync_client import Client
from nsfwd.errors import CodedError, ConnectionLost, DaemonUnreachable

if TYPE_CHECKING:
    from nsfwd.client.async_client import AsyncClient

__all__ = [
    "AsyncClient",
    "Client",
    "CodedError",
    "ConnectionLost",
    "DaemonUnreachable",
    "Done",
    "Encoded",
    "Opened",
    "Options",
    "Reply",
    "Tree",
]


def __getattr__(name: str) -> Any:
    """Load asyncio only for those who use it: it costs a command line more than all the rest of this package."""
    if name == "AsyncClient":
        from nsfwd.client.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
