"""docs/clients.md shows every verb and every public name in an example: the blocks that another test runs."""

from __future__ import annotations

import re
from pathlib import Path

import nsfwd.client
from nsfwd.cli import man
from nsfwd.cli.main import VERBS
from nsfwd.cli.options import exit_codes
from nsfwd.client import AsyncClient, Client
from nsfwd.local import Scanner

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text("utf-8")

VALUES = {"Done", "Reply"}
"""What calls return: nobody spells these names."""


def _examples(kind: str) -> str:
    return "\n".join(re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.M | re.S))


def test_every_verb_is_typed_in_an_example() -> None:
    """A new verb belongs into a ``console`` block of docs/clients.md, where test_client_docs runs it."""
    typed = set(re.findall(r"\bnsfwd ([a-z]+)", _examples("console")))
    assert VERBS.keys() - typed == set()


def test_every_name_of_the_library_is_used_in_an_example() -> None:
    used = set(re.findall(r"\w+", _examples("python")))
    calls = {name for kind in (Client, AsyncClient, Scanner) for name in dir(kind) if not name.startswith("_")}
    assert (calls | {*nsfwd.client.__all__, "Scanner"}) - VALUES - used == set()


def test_every_exit_code_is_told() -> None:
    """In the table of docs/clients.md, or in that of docs/scanning.md; 0, 1 and 2 in words as well."""
    scanning = (Path(__file__).resolve().parents[2] / "docs" / "scanning.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|", f"{DOCUMENT}\n{scanning}", re.M)
    told = {int(code) for row in rows for code in row.split(",")}
    assert {code for name, code in vars(exit_codes).items() if name.isupper() and isinstance(code, int)} <= told


def test_every_page_of_the_manual_has_an_example() -> None:
    """But for a group, whose commands have them."""
    lacking = {name for name, context in man.commands() if "Example" not in (context.command.help or "")}
    assert lacking == set()
