"""Where the program begins: ``nsfwd``, or ``python -m nsfwd``.

A daemon that is told to stop while it is still being imported must end as it would at any other time. So before
anything that takes time its signals are held back, until there is a loop that acts on them.
"""

import gc
import signal
import sys

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ``server.lifecycle`` handles. It lets them through once it does; what came before is then acted on."""

INTERRUPTED = 130
"""As of ``cli.exits``, which may not be there yet."""

YOUNG = 50_000
"""Objects that a command makes before garbage is looked for: more than are imported, among which there is none. Looking
again and again takes a short command a tenth of its time."""


def main() -> None:
    """Run one command line."""
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    else:
        gc.set_threshold(YOUNG)
    try:
        from nsfwd.cli import main as cli
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    cli.main()


if __name__ == "__main__":
    main()
