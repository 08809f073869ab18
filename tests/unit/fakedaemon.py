"""A daemon of a few lines for the tests of clients: threads on a socket that answer by what a name says."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Answer = Callable[[Request], "list[dict[str, Any]] | None"]

MAX_BYTES = 1000

SCORES = {"drawings": 0.02, "hentai": 0.0, "neutral": 0.93, "porn": 0.01, "sexy": 0.04}


def scored(path: str, *, alarm: bool = False) -> dict[str, Any]:
    """Return the body of a reply with scores."""
    verdict, sensitive = ("sensitive", 0.95) if alarm else ("safe", 0.05)
    return {
        "path": path,
        "status": "ok",
        "verdict": verdict,
        "alarm": alarm,
        "label": "neutral",
        "score": 0.93,
        "scores": {"nsfw": SCORES},
        "groups": {"nsfw": {"safe": 1 - sensitive, "sensitive": sensitive}},
        "verdicts": {"nsfw": verdict},
        "because": {"model": "nsfw", "group": "sensitive", "score": sensitive, "threshold": 0.5},
        "model": {"nsfw": "echo@000000000000/f32"},
        "policy": "default@000000000000",
        "time": {"total": 0.01},
    }


def failed(path: str, status: str, code: str) -> dict[str, Any]:
    """Return the body of a reply without scores."""
    return {"path": path, "status": status, "error": {"code": code, "message": f"it is {code}", "retry": False}}


def image(path: str) -> dict[str, Any]:
    """Answer one file by its name."""
    for word, status, code in (
        ("corrupt", "error", "corrupt"),
        ("missing", "error", "not_found"),
        ("locked", "error", "permission"),
        ("outside", "error", "forbidden"),
        ("big", "skipped", "too_large"),
        ("note", "skipped", "not_an_image"),
        ("busy", "refused", "busy"),
    ):
        if word in path:
            return failed(path, status, code)
    return scored(path, alarm="alarm" in path)


def answer(request: Request) -> list[dict[str, Any]]:
    """Answer one request; ``/in/3`` is a directory of three files."""
    if "op" in request:
        keys = {"limits": {"max_bytes": MAX_BYTES}} if request["op"] == "version" else {}
        return [{"op": request["op"], "status": "ok", "ready": True, "requests_total": 3, **keys}]
    if "fd" in request:
        named = {"path": request["name"]} if "name" in request else {}
        return [{key: value for key, value in scored("").items() if key != "path"} | named]
    if "path_bytes" in request:
        name = base64.b64decode(request["path_bytes"])
        return [image(name.decode("utf-8", "replace")) | {"path_bytes": request["path_bytes"]}]
    path = str(request.get("path", ""))
    parent, _, count = path.rpartition("/")
    if request.get("recursive") and not count.isdigit():
        return [image(path), {"path": path, "status": "done", "done": True, "files": 1}]
    if not count.isdigit() or not parent.endswith("/in"):
        return [image(path) if path else {key: value for key, value in image(path).items() if key != "path"}]
    entries = [image(f"{path}/{number}.jpg") for number in range(int(count))]
    tally = {"files": len(entries), "ok": len(entries), "errors": 0, "skipped": 0, "refused": 0}
    return [*entries, {"path": path, "status": "done", "done": True, **tally, "verdicts": {}}]


class _Received(io.RawIOBase):
    """The bytes of a connection; what is in the files that are passed along goes to ``passed``."""

    def __init__(self, connection: socket.socket, passed: list[bytes]) -> None:
        self._connection = connection
        self._passed = passed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, descriptors, _, _ = socket.recv_fds(self._connection, len(buffer), 64)
        for descriptor in descriptors:
            self._passed.append(os.pread(descriptor, 1 << 20, 0))
            os.close(descriptor)
        buffer[: len(data)] = data
        return len(data)


class FakeDaemon:
    """Listens on the Unix socket ``path``, or on a TCP port, until closed.

    Attributes:
        requests: what came in. ``bodies``: the raw bytes. ``passed``: what the descriptors that came along hold.
    """

    def __init__(self, path: Path | None, respond: Answer = answer) -> None:
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.passed: list[bytes] = []
        self._respond = respond
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(os.fspath(path))
            self._listener.listen(16)
            self.address = f"unix:{path}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, io.BufferedReader(_Received(connection, self.passed)) as lines:
            try:
                connection.sendall(b"\n\nWelcome! Enter image path to scan\n# Path: \n")
                for line in lines:
                    request = json.loads(line)
                    self.requests.append(request)
                    if "bytes" in request:
                        self.bodies.append(lines.read(request["bytes"]))
                    replies = self._respond(request)
                    if replies is None:
                        return
                    spelled = (json.dumps({"id": request["id"]} | reply).encode() + b"\n" for reply in replies)
                    connection.sendall(b"".join(spelled))
            except OSError:
                return


class Barring(FakeDaemon):
    """Lets nobody ask, and notes each connection."""

    def _serve(self, connection: socket.socket) -> None:
        self.requests.append({})
        complaint = {"status": "error", "error": {"code": "not_permitted", "message": "not you", "retry": False}}
        with connection:
            connection.sendall(json.dumps(complaint).encode() + b"\n")
