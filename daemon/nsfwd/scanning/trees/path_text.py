"""How names of files are spelled where bytes cannot stand: JSON, tables, pages. Knows no index."""

from __future__ import annotations

import base64

from nsfwd.escaping import escape_wire


def spelled(path: bytes) -> dict[str, str]:
    """Return ``path``, and ``path_bytes`` (base64) beside what can be read of one that is not UTF-8, as replies do."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": escape_wire(path), "path_bytes": base64.b64encode(path).decode()}


def joined(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory, which has no slash at its end unless it is the root."""
    return directory + name if directory == b"/" else b"%b/%b" % (directory, name)


def below(directory: bytes) -> tuple[bytes, bytes]:
    """Return the bounds (first included, last not) between which all paths below a directory lie, bytewise.

    A slash is 0x2F and 0x30 comes next, so what lies between is exactly what begins with the directory and a slash.
    """
    base = directory.rstrip(b"/")
    return base + b"/", base + b"0"


def whole_path() -> str:
    """Return the SQL of a file's path, as a BLOB, where ``directory`` and ``file`` are joined."""
    return "CAST(rtrim(CAST(directory.path AS TEXT), '/') || '/' || CAST(file.name AS TEXT) AS BLOB)"
