"""``nsfwd``: finds the verb, runs it, and makes one line and an exit code of whatever goes wrong.

Knows nothing of what the verbs do.
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
    "sweep": ("nsfwd.cli.sweep:sweep", "Scan trees in the background, and remember."),
    "watch": ("nsfwd.cli.watch:watch", "Scan what comes into trees, soon after it was written."),
    "spool": ("nsfwd.cli.spool:spool", "Answer lists of paths that lie in a directory."),
    "restore": ("nsfwd.cli.restore:restore", "Put back what an action moved away."),
    "index": ("nsfwd.cli.index:index", "Look into what sweeps, watches and spools remember."),
    "report": ("nsfwd.cli.report:report", "Write a page about an index."),
    "ping": ("nsfwd.cli.options.daemon_commands:ping", "Ask whether a daemon is there."),
    "ready": ("nsfwd.cli.options.daemon_commands:ready", "Ask whether it can score."),
    "stats": ("nsfwd.cli.options.daemon_commands:stats", "Show its counters."),
    "reload": ("nsfwd.cli.options.daemon_commands:reload", "Have it take up changed settings and bundles."),
    "top": ("nsfwd.cli.top:top", "Watch it at work."),
    "bench": ("nsfwd.cli.bench:bench", "Measure how fast it answers."),
    "config": ("nsfwd.cli.config:config", "Show or check the settings."),
    "models": ("nsfwd.cli.models:models", "Bundles: the networks that nsfwd can serve."),
    "override": ("nsfwd.cli.override:override", "Decisions of people, which win over the model."),
    "completion": ("nsfwd.cli.completion:completion", "Print the completion script of a shell."),
}
"""Verb -> where its command is, and its one line of help."""


@click.group(cls=LazyGroup, table=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nsfwd", message="%(prog)s %(version)s")
def cli() -> None:
    """Scan images for what is not safe for work: a daemon, and the commands around it.

    \b
    Example:
      nsfwd serve &
      nsfwd scan ~/Pictures
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong is one line on stderr."""
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
        raise  # nsfwd.__main__ says what to install
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
    """Put something in the place of standard streams that the caller has closed (``nsfwd ... >&-``).

    Else the first socket or file that is opened would take the number, and get what is meant for people. What comes in
    their place refuses to be read or written, so that nobody takes results that are lost for a success.
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
    """Say what helps where only others may do what was asked."""
    return f"; {error.row.remedy}" if isinstance(error, CodedError) and error.code == "not_permitted" else ""


def _line(text: str) -> str:
    return " ".join(text.split())


def _trouble(error: OSError) -> str:
    """Say what could not be read or written, and why."""
    what = error.filename
    if what is None:
        call = _call(error)
        if call in _WRITING and error.errno == errno.EBADF:
            return "standard output is closed"
        what = "output" if call in _WRITING else call
    return f"{what}: {error.strerror or error}"


_WRITING = frozenset({"write", "writelines", "writerow", "flush", "print", "echo"})


def _call(error: OSError) -> str:
    """Return the name of the call that failed, as its line of source has it: an error of the kernel's has no other."""
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
    """Write what the streams still hold: where the interpreter cannot, it exits with 120 and not with ``code``.

    Returns:
        ``code``, or that of results that are lost only now.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            code = exit_codes.BROKEN_PIPE
        elif code != exit_codes.IO:  # else it was said already
            code = _complain(_trouble(error), exit_codes.IO)
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    return code


def _discard(stream: TextIO) -> None:
    """Have the interpreter throw away what a stream still holds and cannot write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
