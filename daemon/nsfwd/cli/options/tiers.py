"""The verdicts of the served models: read from the bundles where they are found, else from the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nsfwd.errors import BundleError, NsfwdError

if TYPE_CHECKING:
    from nsfwd.config import Settings

FLOOR = "safe"
"""The harmless verdict where a policy has no tiers."""


def tiers_of(settings: Settings) -> list[list[str]]:
    """Return the verdicts of each served model, the lowest tier first.

    Raises:
        NsfwdError: neither bundles nor a daemon are found; the message lists the attempts.
    """
    return [[tier["name"] for tier in model["tiers"]] or list(model["labels"]) for model in _models(settings)]


def floor_of(settings: Settings) -> str:
    """Return the lowest tier of the first model.

    Raises:
        NsfwdError: as ``tiers_of``.
    """
    tiers = _models(settings)[0]["tiers"]
    return str(tiers[0]["name"]) if tiers else FLOOR


def _models(settings: Settings) -> list[dict[str, Any]]:
    """Return the models as the operation ``models`` describes them."""
    from nsfwd.server.daemon import open_bundles
    from nsfwd.server.operations import describe

    try:
        return [describe(bundle) for bundle in open_bundles(settings)]
    except BundleError as missing:
        from nsfwd.cli.options.daemon_commands import TIMEOUT
        from nsfwd.client import Client

        try:
            with Client(timeout=TIMEOUT, patience=0) as client:
                models: list[dict[str, Any]] = client.models()["models"]
        except NsfwdError as error:
            raise BundleError(f"{missing}; {error}") from error
        return models
