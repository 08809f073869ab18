"""Documents of strangers: whatever is wrong with one is one kind of error."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwd.bundles.manifest import parse_manifest
from nsfwd.documents import DocumentError, decode_json, parse_toml, read_document
from nsfwd.errors import BundleError, SettingsError
from nsfwd.scanning.sweeps.job_file import read_job

TEXTS = ["a = " + "[" * 100_000, "a = " + "9" * 5000, "a = {b = " * 50_000, "a = \x00", "[", "a = 1\na = 2"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(DocumentError, match=r"^not valid TOML: "):
        parse_toml(text)
    with pytest.raises(BundleError, match=r"^there: not valid TOML: "):
        parse_manifest(text, "there")
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"a.toml: not valid TOML: "):
        read_job(tmp_path / "a.toml", ["a"])


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"", b'{"a": 1e999}', b"[1]"])
def test_json(text: bytes) -> None:
    with pytest.raises(DocumentError, match=r"^not valid JSON: "):
        decode_json(text, dict[str, int])


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DocumentError, match="larger than 4 MiB"):
        read_document(path)
    path.write_bytes(b"\xe9")
    with pytest.raises(DocumentError, match="not UTF-8"):
        read_document(path)
