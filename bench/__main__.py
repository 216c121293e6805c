"""The command line of the benchmark: `python -m bench COMMAND`."""

from __future__ import annotations

import signal
import sys


def start() -> None:
    """Run the command. Ctrl-C also ends it without a traceback while its modules are imported."""
    try:
        from bench.cli.commands import main

        main(prog_name="python -m bench")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # A second Ctrl-C would print a traceback while the interpreter ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    start()
