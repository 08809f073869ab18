"""Where the program begins: ``nsfwd``, or ``python -m nsfwd``.

A daemon that is told to stop while it is still being imported must end as it would at any other time. So before
anything that takes time its signals are held back, until there is a loop that acts on them.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # of ``python -m nsfwd``: a module in the working directory is never to be imported

import gc
import os
import signal

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ``server.lifecycle`` handles. It lets them through once it does; what came before is then acted on."""

INTERRUPTED = 130
UNAVAILABLE = 69
"""As of ``cli.options.exit_codes``, which may not be there yet."""

YOUNG = 50_000
"""Objects that a command makes before garbage is looked for: more than are imported, among which there is none. Looking
again and again takes a short command a tenth of its time."""


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
    """Begin again in Python's UTF-8 mode where the locale has another encoding.

    Names of files are bytes, and the daemon's JSON is UTF-8: a name must not depend on the locale of who asks. The mode
    can be chosen at the start of the interpreter alone. Children have it from the environment.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
