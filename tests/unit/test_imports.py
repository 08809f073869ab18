"""What a caller loads: nothing that only the daemon needs. Each check runs in an interpreter of its own."""

import json
import subprocess
import sys

import pytest

HEAVY = ("numpy", "PIL", "tensorflow", "keras", "openvino", "uvloop", "prometheus_client")
UNUSED = ("msgspec", "rich", "asyncio", "logging", "hashlib", "ssl", "secrets", "random", "tomllib", "traceback", "csv")
"""Cheap beside those, and still most of what a short command would take to start."""

ROOMS = {
    f"nsfwd.{room}" for room in ("backoff", "cli", "client", "errors", "escaping", "protocol", "quantities", "scanning")
}
"""Of this package, all that a command may load which asks a daemon."""

_REMEMBER = "import sys; before = {*sys.modules}"
"""What was loaded to start the interpreter, as by the ``.pth`` files of other packages, is not ours."""

_REPORT = "names = sorted({*sys.modules} - before); import json; print(json.dumps(names))"


def _modules(code: str) -> set[str]:
    program = f"{_REMEMBER}\n{code}\n{_REPORT}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout.splitlines()[-1]))


def _loaded(code: str) -> set[str]:
    return {name.partition(".")[0] for name in _modules(code)}


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
        (["--help"], {*UNUSED, "socket"}),
        (["scan", "--help"], {*UNUSED, "socket"}),
        (["scan", "--connect", "unix:/nowhere", "/x"], set(UNUSED)),
        (["ping", "--connect", "unix:/nowhere"], set(UNUSED)),
        (["serve", "--help"], {"rich"}),
        (["models", "--help"], set()),
    ],
)
def test_a_verb_loads_only_what_it_needs(line: list[str], also: set[str]) -> None:
    assert not _loaded(f"from nsfwd.cli.main import run; run({line!r})") & {*HEAVY, *also}


@pytest.mark.parametrize(
    "line", [["scan", "--connect", "unix:/nowhere", "/x"], ["stats", "--connect", "unix:/nowhere"]]
)
def test_asking_a_daemon_loads_no_room_of_the_daemon(line: list[str]) -> None:
    modules = _modules(f"from nsfwd.cli.main import run; run({[*line, '--connect', 'unix:/nowhere']!r})")
    assert {".".join(name.split(".")[:2]) for name in modules if name.startswith("nsfwd.")} <= ROOMS


def test_pulling_what_is_there_loads_no_framework() -> None:
    assert not _loaded("import nsfwd.model_tools.pull") & {*HEAVY}


def test_completing_a_verb_imports_none() -> None:
    typed = "import os; os.environ.update(COMP_WORDS='nsfwd s', COMP_CWORD='1')"
    modules = _modules(f"{typed}\nfrom nsfwd.cli.completion import complete; complete('bash_complete')")
    assert {name for name in modules if name.startswith("nsfwd.cli.")} == {
        f"nsfwd.cli.{name}" for name in ("completion", "main", "options", "options.exit_codes", "options.lazy_group")
    }
