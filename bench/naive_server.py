"""The naive server: how such a daemon is first written. A thread for each client, ``model.predict`` for each request.

The same decoding as everybody here; the model is the bundle's own ``model.keras`` under TensorFlow.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from bench.shared import BUNDLE, Scorer

SCORER = Scorer.of_environment(engine="echo")
MODEL: Any = keras.models.load_model(Path(os.environ[BUNDLE]) / "model.keras", compile=False)
LOCK = threading.Lock()


class Client(socketserver.StreamRequestHandler):
    """One client, one thread."""

    def handle(self) -> None:
        """Answer line after line."""
        for line in self.rfile:
            request = json.loads(line)
            pixels = SCORER.decode(request["path"]).astype("float32") * SCORER.bundle.manifest.recipe.scale
            with LOCK:
                scores = MODEL.predict(pixels[None], verbose=0)[0].tolist()
            reply = {"id": request["id"], "status": "ok", "scores": scores}
            self.wfile.write(json.dumps(reply, separators=(",", ":")).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    """Threads that end with the process."""

    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Client) as server:
        server.serve_forever()
