"""Puts a run's tables into a page of Markdown: each between two marks that name it; all else there is a person's."""

from __future__ import annotations

import re
from pathlib import Path

from bench import targets
from bench.records import Table, Tables

BLOCK = re.compile(r"<!-- bench: (?P<name>.+?) -->\n(?P<body>.*?)<!-- bench end -->", re.DOTALL)


def write(target: Path, tables: Tables) -> list[str]:
    """Renew the tables that the page has marks for; make the page with all of them where there is none.

    Returns:
        The tables it has no marks for.

    Raises:
        OSError: it cannot be read or written.
    """
    if not target.exists():
        told = "\n\n".join(f"### {_title(name)}\n\n{_block(name, str(table))}" for name, table in tables.items())
        target.write_text(told + "\n", "utf-8")
        return []
    renewed, found = renew(target.read_text("utf-8"), tables)
    target.write_text(renewed, "utf-8")
    return [name for name in tables if name not in found]


def renew(page: str, tables: Tables) -> tuple[str, set[str]]:
    """The page with these tables in place of those of the same names, and the names it has marks for."""
    found: set[str] = set()

    def put(block: re.Match[str]) -> str:
        name = block["name"]
        found.add(name)
        if name not in tables:
            return block[0]
        table = tables[name]
        return _block(name, str(targets.merged(_rows(block["body"]), table) if name == targets.NAME else table))

    return BLOCK.sub(put, page), found


def _block(name: str, body: str) -> str:
    return f"<!-- bench: {name} -->\n\n{body}\n\n<!-- bench end -->"


def _title(name: str) -> str:
    return name[0].upper() + name[1:]


def _rows(body: str) -> Table:
    """The table that a block has."""
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in body.splitlines() if line[:1] == "|"]
    return Table("", [dict(zip(lines[0], line, strict=False)) for line in lines[2:]] if lines else [])
