"""What a caller loads: nothing that only the daemon needs. Each check runs in an interpreter of its own."""

import json
import subprocess
import sys

import pytest

HEAVY = ("numpy", "PIL", "tensorflow", "keras", "openvino", "uvloop", "prometheus_client")
_REPORT = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def _loaded(code: str) -> set[str]:
    ran = subprocess.run([sys.executable, "-c", f"{code}\n{_REPORT}"], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", ["import nsfwd.client", "from nsfwd.client import AsyncClient"])
def test_the_client_needs_the_standard_library_alone(code: str) -> None:
    assert not _loaded(code) & {*HEAVY, "msgspec", "click", "rich"}


def test_the_client_works_without_orjson() -> None:
    assert "orjson" not in _loaded(
        "import sys; sys.modules['orjson'] = None\nimport nsfwd.client\ndel sys.modules['orjson']"
    )


def test_the_blocking_client_leaves_asyncio_alone() -> None:
    assert "asyncio" not in _loaded("import nsfwd.client")


@pytest.mark.parametrize(
    ("line", "also"),
    [
        (["--help"], {"msgspec", "rich", "asyncio", "json"}),
        (["scan", "--help"], {"msgspec", "rich", "asyncio", "csv"}),
        (["scan", "--connect", "unix:/nowhere", "/x"], {"msgspec", "rich", "asyncio"}),
        (["ping", "--connect", "unix:/nowhere"], {"msgspec", "rich", "asyncio"}),
        (["serve", "--help"], {"rich"}),
        (["models", "--help"], set()),
    ],
)
def test_a_verb_loads_only_what_it_needs(line: list[str], also: set[str]) -> None:
    loaded = _loaded(f"from nsfwd.cli.main import run; run({line!r})")
    assert not loaded & ({*HEAVY} | (also - {"json"}))
