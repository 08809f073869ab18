"""One name, one thing: modules and classes are named once, and the documents name modules that exist."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "daemon" / "nsfwd"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

PAIRS = {
    "index_export.py": "scanning/reports",
    "report.py": "scanning/reports",
    "restore.py": "scanning/actions",
    "sweep.py": "scanning/sweeps",
    "watch.py": "scanning/watches",
}
"""Names used twice with reason: a verb in ``cli/`` and the module that does its work -> the room of the second."""

ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
DOCUMENTS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")


def repeated(places: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> the places where it is, for each name that occurs twice or more among pairs of name and place."""
    found = defaultdict(list)
    for name, place in places:
        found[name].append(place)
    return {name: where for name, where in found.items() if len(where) > 1}


def test_a_module_name_occurs_once() -> None:
    places = [(path.name, str(path.parent)) for path in MODULES if path.name != "__init__.py"]
    assert repeated(places) == {name: ["cli", room] for name, room in PAIRS.items()}


def test_a_public_class_name_occurs_once() -> None:
    places = [
        (node.name, str(path))
        for path in MODULES
        for node in ast.walk(ast.parse((PACKAGE / path).read_bytes()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert repeated(places) == {}


def paths_in(text: str) -> set[str]:
    """The modules and packages that a document names, such as ``ipc/`` and ``ipc/child.py``."""
    named = re.findall(r"(?<![\w./-])(\w+(?:/\w+)*(?:/|\.py))(?![\w./-])", re.sub(r"\]\([^)]*\)", "", text))
    return {name for name in named if "/" in name or f"`{name}`" in text}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_in_documents_exist(document: str) -> None:
    named = paths_in((REPOSITORY / document).read_text("utf-8"))
    missing = {name for name in named if not (PACKAGE / name).exists() and not (REPOSITORY / name).exists()}
    assert named
    assert missing == set()


def test_every_room_is_in_the_table_of_rooms() -> None:
    rooms = {f"{path.name}/" if path.is_dir() else path.name for path in PACKAGE.iterdir()}
    rooms -= {"__init__.py", "__main__.py", "__pycache__/", "py.typed"}
    assert rooms - paths_in((REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")) == set()


def test_the_ten_questions_have_answers() -> None:
    rows = re.findall(r"^\| ([A-Z][^|]+\?) \| `([\w/]+\.py)` \|$", ARCHITECTURE, re.MULTILINE)
    assert len(rows) == len({question for question, _ in rows}) == 10
    assert [file for _, file in rows if not (PACKAGE / file).is_file()] == []


def test_a_word_of_the_glossary_has_one_meaning() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (REPOSITORY / "docs" / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert len(words) == len(set(words)) > 50


def test_classes_and_members_named_in_the_architecture_exist() -> None:
    texts = [(PACKAGE / path).read_text("utf-8") for path in MODULES]
    named = set(re.findall(r"`([A-Z][a-z]\w+)(?:\.(\w+))?`", ARCHITECTURE))
    assert named
    for name, member in named:
        assert any(re.search(rf"^class {name}\b", text, re.MULTILINE) and member in text for text in texts), name
