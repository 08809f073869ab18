"""Fixtures of these tests: those of the integration tests."""

from tests.integration.conftest import daemon, gallery, oneshot_port

__all__ = ["daemon", "gallery", "oneshot_port"]
