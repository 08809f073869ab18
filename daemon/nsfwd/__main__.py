"""Entry point of the program: ``nsfwd``, or ``python -m nsfwd``.

A daemon that gets a signal to stop during its imports must end as at any other time. So before anything that takes time
its signals are blocked, until there is a loop that handles them.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # of ``python -m nsfwd``: no module of the working directory may be imported

import gc
import os
import signal

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ``server.lifecycle`` handles. It unblocks them when it is ready; earlier ones are then handled."""

INTERRUPTED = 130
UNAVAILABLE = 69
"""As in ``cli.options.exit_codes``, which may not be importable yet."""

YOUNG = 50_000
"""Objects that a command creates before the first garbage collection: more than its imports create, which leave no
garbage. Collecting again and again costs a short command a tenth of its time."""


def main() -> None:
    """Run one command line."""
    _use_utf8()
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    else:
        gc.set_threshold(YOUNG)
    try:
        from nsfwd.cli import main as cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        from nsfwd.extras import install_command

        hint = f"run: {install_command()} (without its dependencies only nsfwd.client works)"
        print(f"nsfwd: the Python package {error.name} is not installed; {hint}", file=sys.stderr)
        sys.exit(UNAVAILABLE)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding.

    Names of files are bytes, and the daemon's JSON is UTF-8: a name must not depend on the locale of a client. The mode
    can only be chosen at the start of the interpreter. Children inherit it from the environment.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
