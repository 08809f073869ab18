"""The wording of all that people read, checked by rules: ``python -m tests.wording``, a part of ``make check``.

Read are the strings of the program that hold words (help, messages, log lines, tables of codes, settings and metrics),
the docstrings of commands, which are their help, and the text of the documents. Left out are docstrings that only
maintainers read, code in documents, SQL, and released sections of the change log.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PROGRAM = "daemon"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "protocol.md", "docs/*.md")

ALLOWED: dict[tuple[str, str], str] = {}
"""File and words that a rule finds there -> why they stay."""


@dataclass(frozen=True)
class Rule:
    """Words that are not written, and how to say it instead."""

    words: str
    instead: str


_RELATIVE = r"(?:what|who)"

RULES = (
    Rule(r"\bupon\b", "on"),
    Rule(r"\bmend(?:s|ed|ing)?\b", "fix, correct"),
    Rule(r"\btold\b|\btell(?:s|ing)? (?:of|that|what|which|where|why|how)\b", "report, show, say"),
    Rule(r"\bspell(?:s|ed|ing|ings|t)?\b", "write, format"),
    Rule(r"\bheed(?:s|ed|ing)?\b", "respect, use"),
    Rule(r"\bwhom\b", "name the person or the thing"),
    Rule(r"\b(?:who|what|which)(?:so)?ever\b", "any, every, the client that"),
    Rule(r"\bmeanwhile\b", "in the meantime, while ..."),
    Rule(r"\b(?:stands?|stood|standing) back\b", "pause, yield"),
    Rule(r"\bnobody(?:'s)?\b", "no client, no user"),
    Rule(r"\bserves? on\b", "continues to serve"),
    Rule(r"\b(?:gave|gives?) up:", "the state: 'decoder sandbox: landlock, seccomp active'"),
    Rule(r"\bshall\b", "must, will"),
    Rule(r"\b(?:anew|thereof|wherein|whereof|hence|thus|lest|whence|whither|whilst)\b", "again; plain words"),
    Rule(r"(?<!\bthere )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b)", "is not a ..., invalid ..."),
    Rule(rf"(?:^|(?<=[.;:!] )){_RELATIVE}\b(?![^.;:]*\?)", "a noun first: 'Action on an alarm.'"),
    Rule(rf"\b(?:of|by|to|from|with|for|on|in|than|but|as|into|about|after|before) {_RELATIVE}\b", "a noun"),
    Rule(r"\b(?:daemon|server|process|decoder|engine|client|peer|worker|child|kernel)s? who\b", "that"),
    Rule(r"\b(?:he|she|his|hers|him)\b", "it: a process is a thing"),
    Rule(r"\bso (?:many|much|long|often)\b(?! as\b| that\b)", "this long, at most N"),
)
"""Tried in this order, in any case of letters."""

_WRITTEN_OUT = re.compile(r"(?<![\w.,/])(?:\d{6,}|\d{5}(?= bytes))(?![\w.,/])")
_SQL = re.compile(r"\b(?:SELECT|FROM|WHERE|TABLE|NULL|PRAGMA|INSERT|DELETE)\b")
_COMMANDS = frozenset({"command", "group"})


@dataclass(frozen=True)
class Finding:
    """Words that break a rule, and where."""

    path: str
    line: int
    words: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.words!r}: {self.instead}"


def check(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield place, words and advice for all that a sentence, or a few of them, should not say."""
    flat = re.sub(r"\s", " ", text)
    for rule in RULES:
        for match in re.finditer(rule.words, flat, re.IGNORECASE):
            yield match.start(), match[0].strip(), rule.instead
    for match in _WRITTEN_OUT.finditer(flat):
        if int(match[0]) % 1024 == 0:
            yield match.start(), match[0], "in the unit that a person types: 8 MiB"


def in_program(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string of a module that people may come to read."""
    tree = ast.parse(source)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            shown = isinstance(node, ast.FunctionDef) and any(map(_is_command, node.decorator_list))
            for part in node.body:
                if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and not shown:
                    left_out.add(id(part.value))
        elif isinstance(node, ast.JoinedStr):
            left_out.update(map(id, node.values))
    for node in ast.walk(tree):
        if id(node) not in left_out and (text := _text(node)) and not _SQL.search(text):
            yield node.lineno, text  # type: ignore[attr-defined]


def _is_command(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr in _COMMANDS


def _text(node: ast.AST) -> str:
    """Return the words of a literal, ``{}`` for each value in it; empty where it is no more than a name."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    else:
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return text if re.search(r"[A-Za-z]{2,}\W*\s|\s[A-Za-z]{2,}", text) else ""


def in_document(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each heading, paragraph, item and cell, ``{}`` for the code in it."""
    start, lines, fenced, before = 1, list[str](), False, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        code = fenced or line.startswith("```") or (line.startswith("    ") and not lines and not before.strip())
        begins = code or not line.strip() or re.match(r"\s*(?:#+|[-*>]|\d+\.|\|)\s", line)
        before = line
        if begins and lines:
            yield from _cells(start, "\n".join(lines))
            lines = []
        if not code and line.strip():
            start = start if lines else number
            lines.append(line)


def _cells(line: int, text: str) -> Iterator[tuple[int, str]]:
    plain = re.sub(r"\]\([^)]*\)|<[^>]*>", "]", re.sub(r"(`+).*?\1", "{}", text, flags=re.DOTALL))
    if plain.startswith(("|", "#")):
        for label in re.split(r"\|", plain.lstrip("#")):
            yield line, f" {label.strip()}"  # does not begin a sentence
    else:
        yield line, re.sub(r"^\s*(?:[-*>]|\d+\.)\s+", "", plain).strip()


def findings(root: Path = HERE) -> Iterator[Finding]:
    """Yield all that the rules find in the program and in the documents."""
    for path in sorted([*(root / PROGRAM).rglob("*.py"), *(file for each in DOCUMENTS for file in root.glob(each))]):
        name = path.relative_to(root).as_posix()
        text = path.read_text("utf-8")
        if name == "CHANGELOG.md":
            text = re.split(r"\n## \[\d", text)[0]
        for line, piece in in_program(text) if path.suffix == ".py" else in_document(text):
            for place, words, instead in check(piece):
                if (name, words) not in ALLOWED:
                    yield Finding(name, line + piece.count("\n", 0, place), words, instead)


def main() -> int:
    found = list(findings())
    for one in found:
        print(one)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
