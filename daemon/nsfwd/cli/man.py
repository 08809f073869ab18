"""Man pages made from the help: ``python -m nsfwd.cli.man DIR`` writes one page for nsfwd and one for each command.

The help is the only source of a page; a test compares the two.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from nsfwd.cli.main import VERBS, cli


def commands() -> Iterator[tuple[str, click.Context]]:
    """Yield the name and the context of every command and subcommand."""
    root = click.Context(cli, info_name="nsfwd")
    yield "nsfwd", root
    for verb in VERBS:
        yield from _below(verb, root)


def _below(verb: str, parent: click.Context) -> Iterator[tuple[str, click.Context]]:
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, verb)
    assert command is not None
    context = click.Context(command, info_name=verb, parent=parent)
    yield context.command_path.replace(" ", "-"), context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _below(name, context)


def page(name: str, context: click.Context) -> str:
    """Return the page of one command in the language of man(7)."""
    command = context.command
    summary, _, rest = (command.help or "").partition("\n")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f'.TH "{name.upper()}" 1 "" "nsfwd {version("nsfwd")}" "nsfwd"', ".SH NAME"]
    lines += [f"{_plain(name)} \\- {_plain(summary.rstrip('.'))}", ".SH SYNOPSIS"]
    lines += [
        f".B {_plain(context.command_path)}",
        _plain(usage),
        ".SH DESCRIPTION",
        *_paragraphs(f"{summary}\n{rest}"),
    ]
    options = [record for record in (each.get_help_record(context) for each in command.get_params(context)) if record]
    if options:
        lines.append(".SH OPTIONS")
        for output_format, text in options:
            lines += [".TP", f"\\fB{_plain(output_format)}\\fR", _plain(" ".join(text.split()))]
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS", *_verbs(command, context)]
    if command.epilog:
        lines += [".SH NOTES", *_paragraphs(command.epilog)]
    return "\n".join(lines) + "\n"


def _verbs(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        page_name = f"{context.command_path} {name}".replace(" ", "-")
        yield from (".TP", f"\\fB{_plain(page_name)}\\fR(1)", _plain(command.get_short_help_str(200)))


def _paragraphs(text: str) -> Iterator[str]:
    r"""Yield paragraphs; one that click must not wrap (``\b``) keeps its lines."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            yield from (".PP", ".nf", *map(_plain, lines[1:]), ".fi")
        else:
            yield from (".PP", _plain(" ".join(map(str.strip, lines))))


def _plain(text: str) -> str:
    """Escape the characters that man would interpret."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\b", "")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def write(directory: Path) -> list[Path]:
    """Write every page into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, context in commands():
        path = directory / f"{name}.1"
        path.write_text(page(name, context), "utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    for file in write(Path(sys.argv[1])):
        print(file)
