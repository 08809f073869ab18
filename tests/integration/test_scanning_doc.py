"""docs/scanning.md, typed from its first line to its last: a daemon, a tree, and units that run what they say.

The directories of the system are others here: absolute paths of the document are put below a temporary one, and
``systemctl start`` runs the ``ExecStart`` of the unit in this repository.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.echo_bundle import echo_bundle
from tests.integration.harness import REPOSITORY, Daemon
from tests.integration.test_actions import picture

DOCUMENT = (REPOSITORY / "docs" / "scanning.md").read_text("utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", DOCUMENT, re.M | re.S)

NSFWD = """\
#!{python}
from pathlib import Path
import nsfwd.cli.options.default_paths, nsfwd.scanning.sweeps.job_file
state = Path("{base}/var/lib/nsfwd")
nsfwd.cli.options.default_paths.default_index = lambda: state / "index.db"
nsfwd.cli.options.default_paths.default_quarantine = lambda: state / "quarantine"
nsfwd.scanning.sweeps.job_file.DIRECTORY = Path("{base}/etc/nsfwd/sweep.d")
from nsfwd.cli.main import main
main()
"""

SYSTEMCTL = """\
#!{python}
import re, subprocess, sys
from pathlib import Path
verb, *rest = [word for word in sys.argv[1:] if not word.startswith("--")]
for unit in rest:
    name, instance, kind = re.fullmatch(r"([a-z-]+@)(\\w+)(\\.\\w+)", unit).groups()
    text = Path("{units}", name + kind).read_text()
    if verb == "start":
        command = re.search(r"^ExecStart=/usr/local/bin/(.*)$", text, re.M)[1].replace("%i", instance)
        allowed = re.search(r"^SuccessExitStatus=(.*)$", text, re.M)[1].split()
        code = subprocess.call(["sh", "-c", command])
        sys.exit(code and str(code) not in allowed)
"""

OFFICE = """\
#!{python}
import sys
from pathlib import Path
path = Path(sys.argv[1])
first, *rows = path.read_text().splitlines()
path.write_text("\\n".join([first, *(row + ("yes" if ",true," in row else "no") for row in rows)]) + "\\n")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In place of the file system's root."""
    base = tmp_path_factory.mktemp("system")
    tree = base / "srv/uploads"
    (tree / "2026/.thumbnails").mkdir(parents=True)
    for number in range(40):
        (tree / "2026" / f"{number}.png").write_bytes(picture(alarm=False))
    (tree / "statue.png").write_bytes(picture(alarm=True))
    (tree / "2026" / "alarm.png").write_bytes(picture(alarm=True))
    (tree / "2026/.thumbnails" / "small.png").write_bytes(picture(alarm=False))
    (tree / "notes.txt").write_text("no picture")
    for directory in ("etc/nsfwd", "var/lib/nsfwd", "var/spool/nsfwd/tmp", "var/spool/nsfwd/in", "bin"):
        (base / directory).mkdir(parents=True)
    (base / "systemd").symlink_to(REPOSITORY / "systemd")
    for name, text in {"nsfwd": NSFWD, "systemctl": SYSTEMCTL, "libreoffice": OFFICE}.items():
        words = {"python": sys.executable, "base": str(base), "units": str(REPOSITORY / "systemd")}
        for word, value in words.items():
            text = text.replace(f"{{{word}}}", value)
        (base / "bin" / name).write_text(text)
        (base / "bin" / name).chmod(0o755)
    return base


@pytest.fixture(scope="module")
def environment(base: Path) -> Iterator[dict[str, str]]:
    """A daemon that judges, and its settings for who asks besides."""
    models = base / "models"
    for name in ("nsfw-mobilenet-v2-140", "nsfw-mobilenet-v2-100"):
        echo_bundle(models, name, side=64 if name.endswith("140") else 16)
    overrides = base / "var/lib/nsfwd/overrides.sqlite"
    flags = ("--overrides", str(overrides))
    with Daemon(base / "daemon", model="nsfw-mobilenet-v2-140", models_dir=models, flags=flags) as daemon:
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("NSFWD_")},
            "PATH": f"{base / 'bin'}:{os.environ['PATH']}",
            "NSFWD_CONNECT": f"unix:{daemon.unix}",
            "NSFWD_ENGINE": "echo",
            "NSFWD_MODELS_DIR": str(models),
            "NSFWD_MODELS": "nsfw-mobilenet-v2-140=nsfw",
            "NSFWD_CACHE_DIR": str(base / "cache"),
            "NSFWD_OVERRIDES": str(overrides),
        }


def typed(block: str, base: Path, environment: dict[str, str]) -> str:
    script = re.sub(r"/(srv|etc|var)(?=/)(?!/pictures)", lambda match: f"{base}{match[0]}", block)
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=base,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (block, done)
    assert "Traceback" not in done.stderr, done
    return done.stdout + done.stderr


def test_the_whole_document_in_one_go(base: Path, environment: dict[str, str]) -> None:
    said = [typed(block, base, environment) for block in BLOCKS]
    tree, state = base / "srv/uploads", base / "var/lib/nsfwd"
    everything = "\n".join(said)
    assert "= ok             43" in said[1] and "not_an_image 1" in said[1]
    assert f"would quarantine {tree}/statue.png" in everything
    assert not (tree / "2026/alarm.png").exists() and (tree / "statue.png").exists()
    assert "found          41" in said[4] and "statue.png" in said[4] and "1 directories were left out" in said[4]
    assert "misses      0.00% (0.00% to" in everything and "precision   100.00%" in everything
    for page in ("report.html", "flips.html", "week.csv", "sample.csv", "index.db"):
        assert (state / page).stat().st_mode & 0o777 == 0o600, page


def test_units_run_what_the_document_types() -> None:
    for unit, verb in (("nsfwd-sweep@.service", "sweep"), ("nsfwd-watch@.service", "watch")):
        text = (REPOSITORY / "systemd" / unit).read_text("utf-8")
        (command,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
        words = shlex.split(command)
        assert words[:4] == ["/usr/local/bin/nsfwd", verb, "--job", "%i"]
    assert any("nsfwd sweep --job uploads" in block for block in BLOCKS)
    for unit in re.findall(r"(nsfwd-\w+@)uploads(\.\w+)\b(?!\.d)", DOCUMENT):
        assert (REPOSITORY / "systemd" / "".join(unit)).is_file()
