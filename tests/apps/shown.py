"""What a browser shows of pictures: a page with all of them, drawn on a canvas and read back."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.apps.programs import program
from tests.integration.harness import PATIENCE

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
"""Chromium as root without a screen, and without connections of its own."""

_SCRIPT = """<script>onload = () => {
  const found = {};
  for (const image of document.images) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    if (!canvas.width) { found[image.id] = null; continue; }
    context.drawImage(image, 0, 0);
    found[image.id] = [canvas.width, canvas.height, [...context.getImageData(0, 0, canvas.width, canvas.height).data]];
  }
  document.body.innerText = "FOUND" + "=" + JSON.stringify(found) + "=" + "END";
}</script>"""


def shown(pictures: Mapping[str, tuple[bytes, str]]) -> dict[str, tuple[int, int, bytes] | None]:
    """Have Chromium show pictures and give what is on its canvas.

    Args:
        pictures: name -> content and the media type behind ``image/``.

    Returns:
        Name -> width, height and RGBA pixels, sRGB, 0-255; None where it shows nothing.
    """
    names = list(pictures)
    tags = (
        f'<img id="{number}" src="data:image/{media};base64,{base64.b64encode(content).decode()}">'
        for number, (content, media) in enumerate(pictures.values())
    )
    with tempfile.TemporaryDirectory() as place:
        page = Path(place, "page.html")
        page.write_text("<!doctype html><body>" + "".join(tags) + _SCRIPT)
        arguments = [f"--user-data-dir={place}/profile", "--force-color-profile=srgb", "--virtual-time-budget=20000"]
        done = subprocess.run(
            [program("chromium"), *FLAGS, *arguments, "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    _, _, rest = done.stdout.rpartition("FOUND=")
    text, mark, _ = rest.partition("=END")
    assert mark, f"the browser gave no result: {done.stderr[-500:]}"
    found = json.loads(text)
    return {
        name: None if found[str(number)] is None else (*found[str(number)][:2], bytes(found[str(number)][2]))
        for number, name in enumerate(names)
    }
