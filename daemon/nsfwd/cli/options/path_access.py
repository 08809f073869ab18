"""Checks whether a user may open a path: walks it as that user and names the first obstacle.

The check tries to open, so that access lists and mounts count as well as modes. Trying as another user needs root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nsfwd.errors import NsfwdError, SettingsError

UNIT = "nsfwd.service"

_HIDDEN = {
    "PrivateTmp": ("/tmp", "/var/tmp"),
    "ProtectHome": ("/home", "/root", "/run/user"),
}
"""Setting of a unit -> directories that it hides."""


def obstacle(path: Path, *, user: str, roots: Sequence[str]) -> str:
    """Return the obstacle that keeps the daemon, running as ``user``, from opening ``path``; empty when there is none.

    Raises:
        SettingsError: the user does not exist.
        NsfwdError: only root can try as another user.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise SettingsError(f"unknown user {user!r}") from None
    if os.geteuid() not in (0, account.pw_uid):
        raise NsfwdError(f"only root can try as {user}: sudo nsfwd config check --as {user} {path}")
    path = Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would follow links, with our own permissions
    return _as_user(account, path) or outside(path, roots, "setting roots") or _hidden(path)


def _as_user(account: pwd.struct_passwd, path: Path) -> str:
    """Walk in a child process that has become the user."""
    if os.geteuid() == account.pw_uid:
        return _walk(path)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = "cannot switch to that user"
        try:
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            words = _walk(path)
        finally:
            os.write(writing, words.encode("utf-8", "surrogateescape"))
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        words = pipe.read().decode("utf-8", "surrogateescape")
    os.waitpid(pid, 0)
    return words


def _walk(path: Path) -> str:
    """Check every directory on the way, as named and with links resolved, then the path itself."""
    for way in (path, Path(os.path.realpath(path))):
        for parent in reversed(way.parents):
            if found := _denied(parent, os.X_OK, "searched"):
                return found
        wanted = os.R_OK | os.X_OK if way.is_dir() else os.R_OK
        if found := _denied(way, wanted, "read"):
            return found
    return ""


def _denied(path: Path, wanted: int, verb: str) -> str:
    try:
        status = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if os.access(path, wanted):
        return ""
    mode = stat.filemode(status.st_mode)
    return f"{path} may not be {verb}: it is {mode}, of user {status.st_uid} and group {status.st_gid}"


def outside(path: Path, roots: Sequence[str], where: str) -> str:
    """Return why these roots do not let ``path`` be scanned, naming their place ``where``; empty when they do."""
    target = Path(os.path.realpath(path))
    if any(target.is_relative_to(os.path.realpath(root)) for root in roots):
        return ""
    return f"{target} is below none of the roots ({', '.join(roots)}): the {where}"


def _hidden(path: Path) -> str:
    """Return the setting of the unit's sandbox that hides ``path``, where systemd has the unit; else empty."""
    program = shutil.which("systemctl")
    target = Path(os.path.realpath(path))
    for setting, places in _HIDDEN.items():
        if program is None or not any(target.is_relative_to(place) for place in places):
            continue
        command = [program, "show", "--value", f"--property={setting}", UNIT]
        value = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if value in ("yes", "tmpfs"):
            return f"{target} is hidden by {setting}={value} of {UNIT}"
    return ""
