"""The language of ``--where``: conditions on the files of an index, made into SQL with parameters.

    verdict = sensitive and (score >= 0.8 or label in (porn, hentai)) and path like '/srv/incoming/%'

Columns and operators are the ones of this module, values travel beside the statement: whatever is written, nothing but
a condition comes of it. Knows the tables' columns; runs nothing.

SQL itself, over a view and behind SQLite's authorizer, would be a tenth of the code, and another language: a word that
is not quoted would be a column (``verdict = sensitive``), ``!=`` would not hold for files without a verdict, dates and
digests would be numbers and blobs, and errors would be SQLite's. Conditions in scripts would break: the language stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from nsfwd.scanning.index.stat_columns import NANOSECONDS
from nsfwd.scanning.trees.file_entry import whole_path

Value = str | float | int | bytes


def _text(word: str) -> Value:
    return word


def _number(word: str) -> Value:
    return float(word)


def _flag(word: str) -> Value:
    flags = {"true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0}
    if word.lower() not in flags:
        raise ValueError("true or false is expected")
    return flags[word.lower()]


def _digest(word: str) -> Value:
    return bytes.fromhex(word)


def _moment(word: str) -> Value:
    """Return the seconds since 1970 of a date, local time where no zone is given."""
    return datetime.fromisoformat(word).timestamp()


def _nanoseconds(word: str) -> Value:
    return datetime.fromisoformat(word).timestamp() * 1e9


class Column(NamedTuple):
    """A column of the language: its SQL, and the function that reads a value."""

    sql: str
    read: Callable[[str], Value]
    help: str


COLUMNS: dict[str, Column] = {
    "path": Column(f"CAST({whole_path()} AS TEXT)", _text, "whole path"),
    "status": Column("file.status", _text, "ok, skipped or error"),
    "code": Column("file.code", _text, "why there are no scores"),
    "verdict": Column("file.verdict", _text, "the effective one"),
    "alarm": Column("file.alarm", _flag, "true or false"),
    "label": Column("file.label", _text, "the top label"),
    "score": Column("file.score", _number, "of the group that decided"),
    "overridden": Column("(file.override IS NOT NULL)", _flag, "true or false"),
    "size": Column("file.size", _number, "bytes"),
    "mtime": Column(NANOSECONDS, _nanoseconds, "date: 2026-01-31 or 2026-01-31T22:00"),
    "time": Column("file.time", _moment, "date of the judgement"),
    "sha256": Column("file.digest", _digest, "64 hexadecimal digits"),
    "policy": Column("(SELECT identity FROM policy WHERE policy.id = file.policy)", _text, "name@digest"),
    "run": Column("file.run", _number, "the run that judged it"),
    "gone": Column("(file.gone IS NOT NULL)", _flag, "true or false; without it only files that are there"),
}

_OPERATORS = frozenset({"=", "!=", "<", "<=", ">", ">="})
_WORDS = frozenset({"and", "or", "not", "in", "like", "is", "null"})
_TOKEN = re.compile(r"\s*(?:(<=|>=|!=|<>|==|[=<>(),])|'((?:[^']|'')*)'|\"([^\"]*)\"|([^\s()=<>!,'\"]+))")

DEEPEST = 50
"""Brackets within brackets; SQLite would refuse a thousand."""


class Condition(NamedTuple):
    """SQL for a WHERE clause, its values, and the columns that it names."""

    sql: str
    values: tuple[Value, ...]
    columns: frozenset[str]


class _Token(NamedTuple):
    text: str
    quoted: bool
    at: int


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        ValueError: it is none; the message says where and what is expected.
    """
    return _Reader(text).whole()


class _Reader:
    """Recursive descent: ``or`` binds loosest, then ``and``, then ``not``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._place = 0
        self._depth = 0
        self._values: list[Value] = []
        self._columns: set[str] = set()

    def whole(self) -> Condition:
        sql = self._any()
        if self._peek() is not None:
            raise self._wrong("and, or, or the end")
        return Condition(sql, tuple(self._values), frozenset(self._columns))

    def _any(self) -> str:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def _all(self) -> str:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def _one(self) -> str:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("too many brackets")
        if self._take("not"):
            sql = f"NOT {self._one()}"
        elif self._take("("):
            sql = self._any()
            self._want(")")
        else:
            sql = self._comparison()
        self._depth -= 1
        return sql

    def _comparison(self) -> str:
        token = self._next("a column")
        column = COLUMNS.get(token.text.lower())
        if column is None or token.quoted:
            raise ValueError(f"there is no column {token.text!r}; there are {', '.join(COLUMNS)}")
        self._columns.add(token.text.lower())
        if self._take("is"):
            no = "NOT " if self._take("not") else ""
            self._want("null")
            return f"{column.sql} IS {no}NULL"
        no = "NOT " if self._take("not") else ""
        if self._take("in"):
            return f"{column.sql} {no}IN ({', '.join(self._list(column))})"
        if self._take("like"):
            return f"{column.sql} {no}LIKE {self._value(column)}"
        operator = self._next("=, !=, <, <=, >, >=, like, in or is")
        sign = {"==": "=", "<>": "!="}.get(operator.text, operator.text)
        if no or operator.quoted or sign not in _OPERATORS:
            raise self._wrong("=, !=, <, <=, >, >=, like, in or is", operator)
        # IS NOT holds for what is not there as well: a file without a verdict is one whose verdict is not safe.
        sign = {"=": "IS", "!=": "IS NOT"}.get(sign, sign)
        return f"{column.sql} {sign} {self._value(column)}"

    def _list(self, column: Column) -> list[str]:
        self._want("(")
        marks = [self._value(column)]
        while self._take(","):
            marks.append(self._value(column))
        self._want(")")
        return marks

    def _value(self, column: Column) -> str:
        token = self._next("a value")
        if not token.quoted and (token.text.lower() in _WORDS or token.text in "(),=<>"):
            raise self._wrong("a value", token)
        try:
            self._values.append(column.read(token.text))
        except ValueError:
            raise ValueError(f"invalid value {token.text!r} for this column ({column.help})") from None
        return "?"

    def _peek(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self, word: str) -> bool:
        token = self._peek()
        if token is None or token.quoted or token.text.lower() != word:
            return False
        self._place += 1
        return True

    def _want(self, word: str) -> None:
        if not self._take(word):
            raise self._wrong(word)

    def _next(self, expected: str) -> _Token:
        token = self._peek()
        if token is None:
            raise self._wrong(expected)
        self._place += 1
        return token

    def _wrong(self, expected: str, token: _Token | None = None) -> ValueError:
        token = token or self._peek()
        found = f"{token.text!r} at character {token.at + 1}" if token else "the end"
        return ValueError(f"expected {expected}, found {found}")


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at:].lstrip()[:20]!r} is not understood")
        sign, single, double, word = match.groups()
        quoted = single is not None or double is not None
        spelled = single.replace("''", "'") if single is not None else double if double is not None else sign or word
        tokens.append(_Token(spelled, quoted, match.end() - len(match[0].lstrip())))
        at = match.end()
    return tokens
