"""Where the program begins: ``nsfwd``, or ``python -m nsfwd``.

A daemon that is told to stop while it is still being imported must end as it would at any other time. So before
anything that takes time its signals are held back, until there is a loop that acts on them.
"""

import signal
import sys

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ``server.lifecycle`` handles. It lets them through once it does; what came before is then acted on."""


def main() -> None:
    """Run one command line."""
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    from nsfwd.cli import main as cli

    cli.main()


if __name__ == "__main__":
    main()
