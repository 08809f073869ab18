"""The rules of wording, and that the program and the documents keep them."""

from __future__ import annotations

import pytest

from tests.wording import ALLOWED, HERE, check, findings, in_document, in_program


def test_all_that_people_read() -> None:
    assert not list(map(str, findings()))


def test_words_that_are_allowed_are_still_there() -> None:
    assert all(words in (HERE / path).read_text("utf-8") for path, words in ALLOWED)


@pytest.mark.parametrize(
    "text",
    [
        "go on upon the CPU",
        "mend the path",
        "Tell of every file of a tree",
        "a format is told by content",
        "How replies are spelled.",
        "by whom",
        "Whoever can connect may ask",
        "answers, whatever the file",
        "it was deleted meanwhile",
        "A sweep stands back",
        "a request waits for nobody's queue",
        "the old ones serve on",
        "decoders gave up: landlock",
        "the tree is swept anew",
        "'x' is no duration",
        "tiers that are no alarm",
        "What to do about an alarm.",
        "memory for one engine: what is asked waits",
        "Look into what sweeps remember.",
        "the daemon who answers",
        "the engine and his memory",
        "So many at most.",
        "End a hook after so long.",
        "at most 8388608 bytes",
        "more than 65536 bytes",
    ],
)
def test_words_that_are_not_written(text: str) -> None:
    assert list(check(text))


@pytest.mark.parametrize(
    "text",
    [
        "there is no user 'x'",
        "it is no longer there",
        "see what it says",
        "What did it cost? Nothing.",
        "so many that the queue is full",
        "as often as it takes, so far",
        "a queue of 16384 and 8 MiB",
        "a person who decides",
    ],
)
def test_words_that_are_written(text: str) -> None:
    assert not list(check(text))


def test_of_a_module_only_what_people_may_read() -> None:
    source = '''
"""Of the module, for maintainers."""
@click.command()
def verb() -> None:
    """Help of the verb."""
def _part(name: str) -> None:
    """Of a function, for maintainers."""
    raise ValueError(f"{name} is wrong") if name != "key" else KeyError("SELECT a FROM b")
'''
    assert dict(in_program(source)) == {5: "Help of the verb.", 8: "{} is wrong"}


def test_of_a_document_all_but_code() -> None:
    text = "# What\n\nA line\nand `code` in it.\n\n    indented\n\n```\nfenced code\n```\n- an item\n\n| a | cell |\n"
    assert list(in_document(text)) == [
        (1, " What"),
        (3, "A line\nand {} in it."),
        (11, "an item"),
        *((13, f" {cell}".rstrip() or " ") for cell in ("", "a", "cell", "")),
    ]
