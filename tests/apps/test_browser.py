"""A web page in a real browser sends requests to the daemon's ports: nothing of their bodies is executed."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.apps.programs import program
from tests.apps.shown import FLAGS
from tests.integration.harness import PATIENCE, Daemon, ask, free_port, spell

PAGE = """<!doctype html><title>a page</title><iframe name="frame"></iframe><script>
const ports = PORTS, body = BODY, long = "a".repeat(66000);
const quietly = promise => promise.catch(() => null);
async function attack(port) {
  for (const path of ["", long, "?" + long, "%0A" + long])
    for (const method of ["POST", "GET", "PUT"])
      for (const scheme of ["http", "https"])
        await quietly(fetch(`${scheme}://127.0.0.1:${port}/${path}`, {
          method, mode: method == "PUT" ? "cors" : "no-cors", signal: AbortSignal.timeout(3000),
          body: method == "GET" ? undefined : new Blob([body], {type: "text/plain"}),
        }));
  await new Promise(done => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/${long}`);
    socket.onopen = () => socket.send(body);
    socket.onclose = done;
  });
  const form = document.createElement("form");
  form.method = "POST"; form.enctype = "text/plain"; form.target = "frame";
  form.action = `http://127.0.0.1:${port}/${long}`;
  const field = document.createElement("textarea");
  field.name = body; field.value = body;
  form.append(field); document.body.append(form); form.submit();
  await new Promise(done => { document.querySelector("iframe").onload = done; setTimeout(done, 2000); });
}
Promise.all(ports.map(attack)).then(() => fetch("/done", {method: "POST"}));
</script>"""


@contextmanager
def page(text: str) -> Iterator[tuple[str, threading.Event]]:
    """Serve one page; the event is set when its script is done."""
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", done
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("style", ["session", "plain", "oneshot", "clamd"])
def test_a_page_cannot_have_a_picture_scanned(tmp_path: Path, gallery: Path, style: str) -> None:
    photo = gallery / "photo.jpg"
    lines = [str(photo), f"SCAN {photo}", "stats", json.dumps({"path": str(photo)}), json.dumps({"op": "stats"})]
    body = "\r\n".join(["", "", *lines, ""])
    port = free_port()
    with Daemon(tmp_path / "daemon", root=gallery, listen=[f"tcp:127.0.0.1:{port},style={style}"]) as daemon:
        text = PAGE.replace("PORTS", json.dumps([port])).replace("BODY", json.dumps(body))
        before = ask(daemon.unix, {"op": "stats"})["server"]
        with page(text) as (url, done):
            command = [program("chromium"), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", url]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
                try:
                    assert done.wait(2 * PATIENCE)
                finally:
                    browser.terminate()
        after = ask(daemon.unix, {"op": "stats"})["server"]
        gained = {key: after[key] - before[key] for key in after}
        assert gained["connections_total"] >= 20
        assert gained["requests_total"] == 0
        assert gained["operations_total"] == 1  # the one that asked for the numbers before
        assert style == "clamd" or gained["http_total"] >= 20
        assert ask(daemon.unix, spell({"path": str(photo)}))["status"] == "ok"
