"""Every command of the guide for operators is run: by the trial under a real systemd, or by a test named here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GUIDE = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
TRIAL = "".join(path.read_text("utf-8") for path in sorted((REPOSITORY / "tests" / "systemd").glob("*.py")))

COMMAND = r"(?:nsfwd|systemctl|journalctl|make|runuser|usermod|curl|install|systemd-\w+) [^`\n]+"

ELSEWHERE = {
    "journalctl -p": ("the trial", "journalctl -p err"),
    "journalctl -u nsfwd NSFWD_PEERS=mail": ("the trial", "journalctl -u nsfwd NSFWD_PEERS=mail"),
    "make test-systemd": ("Makefile", "tests/systemd/run"),
    "nsfwd config check": ("the trial", "nsfwd config check"),
    "nsfwd config check --as": ("the trial", "nsfwd config check --as nsfwd"),
    "nsfwd index rejudge": ("tests/unit/test_cli_index_more.py", 'cli("rejudge"'),
    "nsfwd models list": ("the trial", "nsfwd models list"),
    "nsfwd models rollback NAME": ("the trial", "nsfwd models rollback echo"),
    "nsfwd override": ("tests/unit/test_cli_override.py", "override"),
    'nsfwd override add /srv/pictures/statue.jpg --verdict safe --reason "a statue"': (
        "tests/unit/test_cli_override.py",
        'run("add", "statue.jpg", "--verdict", "safe", "--reason", "a statue"',
    ),
    "nsfwd override export -o FILE": ("tests/unit/test_cli_override.py", 'run("export", "-o"'),
    "nsfwd ping": ("tests/unit/test_cli.py", "ping"),
    "nsfwd ready": ("the trial", "nsfwd ready"),
    "nsfwd reload": ("the trial", 'sh("nsfwd reload")'),
    "nsfwd scan --local": ("tests/integration/test_local.py", '"scan", "--local"'),
    "nsfwd serve --metrics": ("tests/integration/test_manager.py", '"--metrics"'),
    "nsfwd stats": ("the trial", "nsfwd stats"),
    "runuser -u nsfwd -- nsfwd models pull nsfw-mobilenet-v2-140 --models-dir /var/lib/nsfwd/models": (
        "Makefile",
        "nsfwd models pull",
    ),
    "systemctl edit nsfwd.socket": ("the trial", "nsfwd.socket.d"),
    "systemctl enable nsfwd.service": ("the trial", "systemctl enable nsfwd.service"),
    "systemctl start nsfwd@NAME.socket": ("the trial", "systemctl start nsfwd@two.socket"),
    "usermod --append --groups nsfwd NAME": ("the trial", "usermod --append --groups nsfwd"),
}
"""Commands in the text: the file in which each is run, and how it reads there. ``make setup`` pulls before any test."""


def sections() -> dict[str, str]:
    """Heading -> text of each section."""
    parts = re.split(r"^## (.*)\n", GUIDE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_unit_and_drop_in_is_named() -> None:
    shipped = {path.name for path in (REPOSITORY / "systemd").glob("nsfwd*") if path.suffix != ".toml"}
    shipped -= {"nsfwd.sysusers.conf", "nsfwd.tmpfiles.conf"}
    assert shipped == set(re.findall(r"\bnsfwd[a-z-]*@?\.(?:service|socket|timer|path|conf)\b", GUIDE))


def test_every_block_of_commands_is_run_by_the_trial() -> None:
    with_blocks = {heading for heading, text in sections().items() if "```sh\n" in text}
    assert with_blocks == set(re.findall(r'documented\("([^"]+)"\)', TRIAL))


def test_every_command_in_the_text_is_run_somewhere() -> None:
    text = re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)
    found = {*re.findall(rf"^    ({COMMAND})$", text, re.MULTILINE), *re.findall(rf"`({COMMAND})`", text)}
    assert found - set(ELSEWHERE) == set(), "run these in a test, and say in ELSEWHERE where"
    assert set(ELSEWHERE) - found == set(), "the guide has them no more"


@pytest.mark.parametrize(("file", "needle"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_it_is_run_where_it_is_said_to_be(file: str, needle: str) -> None:
    assert needle in (TRIAL if file == "the trial" else (REPOSITORY / file).read_text("utf-8"))
