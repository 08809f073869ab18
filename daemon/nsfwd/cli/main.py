"""``nsfwd``: finds the verb, runs it, and turns every error into one line and an exit code.

Knows no verb's work.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.lazy_group import LazyGroup
from nsfwd.errors import CodedError, NsfwdError

VERBS: dict[str, tuple[str, str]] = {
    "serve": ("nsfwd.cli.serve:serve", "Run the daemon."),
    "scan": ("nsfwd.cli.scan:scan", "Scan files and directories."),
    "sweep": ("nsfwd.cli.sweep:sweep", "Scan trees in the background, and keep an index."),
    "watch": ("nsfwd.cli.watch:watch", "Scan new and changed files of trees soon after they were written."),
    "spool": ("nsfwd.cli.spool:spool", "Answer the lists of paths in a spool directory."),
    "restore": ("nsfwd.cli.restore:restore", "Put back files that an action moved away."),
    "index": ("nsfwd.cli.index:index", "Query and maintain the index that sweeps and watches keep."),
    "report": ("nsfwd.cli.report:report", "Write a report of an index as a page."),
    "ping": ("nsfwd.cli.options.daemon_commands:ping", "Check that a daemon is running."),
    "ready": ("nsfwd.cli.options.daemon_commands:ready", "Check that the daemon is ready to score."),
    "stats": ("nsfwd.cli.options.daemon_commands:stats", "Show the counters of the daemon."),
    "reload": ("nsfwd.cli.options.daemon_commands:reload", "Reload settings and bundles."),
    "top": ("nsfwd.cli.top:top", "Show the activity of the daemon, live."),
    "bench": ("nsfwd.cli.bench:bench", "Measure throughput and latency of the daemon."),
    "config": ("nsfwd.cli.config:config", "Show or check the settings."),
    "models": ("nsfwd.cli.models:models", "Manage bundles: the networks that nsfwd can serve."),
    "override": ("nsfwd.cli.override:override", "Manage overrides: decisions of people, which win over the model."),
    "completion": ("nsfwd.cli.completion:completion", "Print the completion script of a shell."),
}
"""Verb -> its command, and its line of help."""


@click.group(cls=LazyGroup, table=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nsfwd", message="%(prog)s %(version)s")
def cli() -> None:
    """Scan images for content that is not safe for work: a daemon and its commands.

    \b
    Example:
      nsfwd serve &
      nsfwd scan ~/Pictures
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one line on stderr."""
    try:
        with cli.make_context("nsfwd", list(arguments)) as context:
            return _code(cli.invoke(context))
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return exit_codes.USAGE
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "nsfwd"
        return _complain(f"{_line(error.format_message()).rstrip('.')} (see {verb} --help)", exit_codes.USAGE)
    except click.ClickException as error:
        return _complain(_line(error.format_message()), exit_codes.FAILED)
    except NsfwdError as error:
        return _complain(_line(f"{error}{_advice(error)}"), exit_codes.code_of(error))
    except BrokenPipeError:
        return exit_codes.BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", exit_codes.INTERRUPTED)
    except OSError as error:
        return _complain(_trouble(error), exit_codes.IO)
    except ModuleNotFoundError:
        raise  # nsfwd.__main__ names the package to install
    except Exception:
        import traceback

        with suppress(OSError):
            traceback.print_exc()
        return exit_codes.DEFECT


def main() -> None:
    """Entry point of the console script, and of a shell that completes a command line."""
    _prepare_streams()
    asked = os.environ.get("_NSFWD_COMPLETE")
    if asked:
        from nsfwd.cli.completion import complete

        try:
            code = complete(asked)
        except OSError:  # the shell no longer reads; words on its terminal would be in the way
            code = exit_codes.IO
    else:
        code = run(sys.argv[1:])
    code = _flush(code)
    gc.freeze()  # the interpreter would look through everything for garbage before it ends
    sys.exit(code)


def _prepare_streams() -> None:
    """Replace standard streams that the caller has closed (``nsfwd ... >&-``).

    Else the first socket or file that is opened would take the number, and get text for people. The replacements refuse
    reads and writes, so that lost results never look like a success.
    """
    refusing = {"stdin": ("r", os.O_WRONLY), "stdout": ("w", os.O_RDONLY), "stderr": ("w", os.O_WRONLY)}
    for name, (mode, flags) in refusing.items():
        if getattr(sys, name) is None:  # the lowest number that is free is its own
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that a terminal does not have is no defect


def _code(result: Any) -> int:
    return result if isinstance(result, int) else exit_codes.OK


def _advice(error: NsfwdError) -> str:
    """Return the remedy of a refusal that lacks one in its message."""
    return f"; {error.row.remedy}" if isinstance(error, CodedError) and error.code == "not_permitted" else ""


def _line(text: str) -> str:
    return " ".join(text.split())


def _trouble(error: OSError) -> str:
    """Return the file or stream that could not be read or written, and why."""
    what = error.filename
    if what is None:
        call = _call(error)
        if call in _WRITING and error.errno == errno.EBADF:
            return "standard output is closed"
        what = "output" if call in _WRITING else call
    return f"{what}: {error.strerror or error}"


_WRITING = frozenset({"write", "writelines", "writerow", "flush", "print", "echo"})


def _call(error: OSError) -> str:
    """Return the name of the failed call from its line of source: an error of the kernel has no other name."""
    import linecache
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "flush"
    last = frames[-1]
    text = linecache.getline(last.filename, last.lineno or 0)[last.colno or 0 :]
    found = re.match(r"[\w.]*?(\w+)\(", text)
    return found[1] if found and not found[1].endswith("Error") else last.name


def _complain(message: str, code: int) -> int:
    from nsfwd.escaping import visible

    with suppress(OSError):  # Python would leave with 1, which means an alarm
        click.echo(f"nsfwd: {visible(message)}", err=True)
    return code


def _flush(code: int) -> int:
    """Flush the streams: where the interpreter cannot, it exits with 120 and not with ``code``.

    Returns:
        ``code``, or the code of results that are lost only now.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            code = exit_codes.BROKEN_PIPE
        elif code != exit_codes.IO:  # else it was reported already
            code = _complain(_trouble(error), exit_codes.IO)
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    return code


def _discard(stream: TextIO) -> None:
    """Drop the buffer of a stream that cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
