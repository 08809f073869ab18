"""A daemon for the tests of sweeps: says of every content the same, whatever it is called, as a real one would.

Scores come from the SHA-256 of the content, so that who is asked about a file, when and how often changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nsfwd.bundles.policy import Policy, Tier
from tests.unit.fakedaemon import FakeDaemon, Request

LABELS = ("drawings", "hentai", "neutral", "porn", "sexy")


def policy(threshold: float) -> Policy:
    """A policy of two tiers."""
    return Policy(
        name="default",
        groups={"safe": ("drawings", "neutral"), "sensitive": ("hentai", "porn", "sexy")},
        tiers=(Tier(name="safe"), Tier(name="sensitive", group="sensitive", threshold=threshold, alarm=True)),
    )


class Script:
    """What the daemon says. To be changed while it runs.

    Attributes:
        asked: path -> how often it was asked about. ``passed``: names of files that came open.
        refusals: so many requests are refused first. ``closings``: with so many the connection is closed first.
        errors: path -> code of an error. ``overrides``: SHA-256 -> verdict that a person gave.
        hook: called with each path before the file is looked at.
        away: until it is set every connection is closed at its first request.
    """

    def __init__(self) -> None:
        self.model, self.policy = "echo@000000000001/f32", policy(0.9)
        self.asked: Counter[bytes] = Counter()
        self.passed: list[str] = []
        self.refusals = self.closings = 0
        self.errors: dict[bytes, tuple[str, bool]] = {}
        self.overrides: dict[str, str] = {}
        self.hook: Callable[[bytes], object] | None = None
        self.away: threading.Event | None = None
        self._lock = threading.Lock()

    def answer(self, request: Request) -> list[dict[str, Any]] | None:
        """Answer one request."""
        if self.away is not None and not self.away.is_set():
            return None
        if "op" in request:
            return [{"op": request["op"], "status": "ok", **self._operation(request["op"])}]
        if "fd" in request:
            self.passed.append(request["name"])
            return [self._scored(request["name"].encode(), {})]
        path = base64.b64decode(request["path_bytes"]) if "path_bytes" in request else request["path"].encode()
        keys: dict[str, str] = {key: request[key] for key in ("path", "path_bytes") if key in request}
        with self._lock:
            if self.closings:
                self.closings -= 1
                return None
            if self.refusals:
                self.refusals -= 1
                return [keys | _failed("refused", "busy", retry=True) | {"retry_after": 0.01}]
            self.asked[path] += 1
        if self.hook is not None:
            self.hook(path)
        if path in self.errors:
            code, retry = self.errors[path]
            return [keys | _failed("error", code, retry=retry)]
        return [self._scored(path, keys)]

    def _operation(self, name: str) -> dict[str, Any]:
        if name == "ready":
            return {"ready": True, "why": ""}
        if name == "models":
            groups = {group: list(labels) for group, labels in self.policy.groups.items()}
            tiers = [
                {"name": tier.name, "group": tier.group, "threshold": tier.threshold, "alarm": tier.alarm}
                for tier in self.policy.tiers
            ]
            told = {"name": "nsfw", "model": self.model, "policy": self.policy.identity, "labels": list(LABELS)}
            return {"models": [told | {"groups": groups, "tiers": tiers}]}
        return {"version": "0", "limits": {"max_bytes": 1 << 20}}

    def _scored(self, path: bytes, keys: dict[str, str]) -> dict[str, Any]:
        try:
            with open(path, "rb") as source:  # noqa: PTH123 (pathlib knows no bytes)
                content, found = source.read(), os.fstat(source.fileno())
        except FileNotFoundError:
            return keys | _failed("error", "not_found", retry=False)
        digest = hashlib.sha256(content).hexdigest()
        identity = {key: getattr(found, f"st_{key}") for key in ("dev", "ino", "size", "mtime_ns", "ctime_ns")}
        file = {"file": {**identity, "sha256": digest}}
        if content.startswith(b"text"):
            return keys | _failed("skipped", "not_an_image", retry=False) | file
        raw = [byte + 1 for byte in bytes.fromhex(digest)[:5]]
        scores = dict(zip(LABELS, (each / sum(raw) for each in raw), strict=True))
        if content.startswith(b"alarm"):
            scores = dict.fromkeys(LABELS, 0.0) | {"porn": 1.0}
        sensitive = scores["hentai"] + scores["porn"] + scores["sexy"]
        threshold = self.policy.tiers[1].threshold or 1.0
        verdict = "sensitive" if sensitive >= threshold else "safe"
        override = {}
        if digest in self.overrides:
            verdict = self.overrides[digest]
            override = {"override": {"verdict": verdict}}
        label = max(scores, key=scores.__getitem__)
        return {
            **keys,
            "status": "ok",
            "verdict": verdict,
            "alarm": verdict == "sensitive",
            "label": label,
            "score": scores[label],
            "scores": {"nsfw": scores},
            "groups": {"nsfw": {"safe": 1 - sensitive, "sensitive": sensitive}},
            "verdicts": {"nsfw": verdict},
            "because": {"model": "nsfw", "group": "sensitive", "score": sensitive, "threshold": threshold},
            "model": {"nsfw": self.model},
            "policy": self.policy.identity,
            **override,
            **file,
            "time": {"total": 0.01},
        }


def _failed(status: str, code: str, *, retry: bool) -> dict[str, Any]:
    return {"status": status, "error": {"code": code, "message": f"it is {code}", "retry": retry}, "time": {}}


@contextmanager
def serving(directory: Path, script: Script) -> Iterator[str]:
    """Serve a script on a Unix socket; give its address."""
    socket = directory / "scripted.sock"
    with FakeDaemon(socket, script.answer) as daemon:
        yield daemon.address
    socket.unlink(missing_ok=True)
