"""The examples of docs/migrating.md, run as they stand there but for the places and ports."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import REPOSITORY, Daemon, free_port, needs

DOCUMENT = (REPOSITORY / "docs" / "migrating.md").read_text("utf-8")


def _blocks(kind: str) -> str:
    found = re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.M | re.S)
    assert found
    return "".join(found)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo, a broken one, and a picture that is an alarm to the echo engine."""
    directory = tmp_path_factory.mktemp("here")
    (directory / "a.jpg").write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    (directory / "b.jpg").write_bytes(pictures.truncated())
    (directory / "upload.png").write_bytes(pictures.encoded(pictures.solid((255, 0, 0)), "PNG"))
    return directory


@pytest.fixture(scope="module")
def old_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, here: Path, old_port: int) -> Iterator[Daemon]:
    clamd = here / "clamd.sock"
    (here / "nsfwd-clamd.conf").write_text(f"LocalSocket {clamd}\n")
    listen = [f"tcp:127.0.0.1:{old_port},style=oneshot", f"unix:{clamd},style=clamd"]
    with Daemon(tmp_path_factory.mktemp("daemon"), root=here, listen=listen) as running:
        yield running


@pytest.mark.parametrize(("name", "why"), [("a.jpg", ""), ("b.jpg", "corrupt"), ("none.jpg", "not_found")])
def test_the_old_server(daemon: Daemon, here: Path, old_port: int, name: str, why: str) -> None:
    code = _blocks("php").replace("/data/in/a.jpg", str(here / name)).replace("1235", str(old_port))
    head = "function hold_for_review($why) { echo json_encode(['held' => $why]); exit; }\n"
    code = f"{head}{code}\necho json_encode($image);"
    said = json.loads(subprocess.run([needs("php"), "-r", code], capture_output=True, check=True, timeout=60).stdout)
    assert said == {"held": why} if why else sum(said.values()) == pytest.approx(1, abs=1e-3)


def test_clamd(daemon: Daemon, here: Path) -> None:
    needs("clamdscan")
    command, *said = _blocks("console").removeprefix("$ ").splitlines()
    done = subprocess.run(command.split(), cwd=here, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.decode().replace(str(here), "/data/in").splitlines()) == (1, said)


@pytest.mark.parametrize(("name", "said"), [("a.jpg", "ok"), ("b.jpg", "held corrupt")])
def test_nsfwjs(daemon: Daemon, here: Path, name: str, said: str) -> None:
    copied = REPOSITORY / "docs" / "clients" / "nsfwd.mjs"
    code = _blocks("js").replace("./nsfwd.mjs", str(copied))
    code = code.replace("new Nsfwd()", f'new Nsfwd({{ address: "tcp:127.0.0.1:{daemon.port}" }})')
    head = (
        f'import {{ readFileSync }} from "node:fs";\nconst encoded = readFileSync("{here / name}");\n'
        "const holdForReview = (why) => { console.log(`held ${why}`); process.exit(); };\n"
    )
    done = subprocess.run(
        [needs("node"), "--input-type=module", "-e", f"{head}{code}\nconsole.log(reply.status);"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.decode().strip()) == (0, said), done
