"""The process that sees to it that a job ends: ``python -m bitdial.app.ending ROOT RUN SECONDS``.

SIGINT was sent already. What still lives after the grace period gets SIGTERM, and SIGKILL after a third of it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_SECONDS = 0.2


def end(living: Callable[[], list[int]], send: Callable[[list[int], signal.Signals], None], grace: float) -> None:
    """Wait for processes to end, and make them.

    Args:
        living: which do.
        send: sends them a signal.
        grace: seconds until SIGTERM; SIGKILL comes after a third of it, and is repeated for what was started meanwhile.
    """
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, grace / 3), (signal.SIGKILL, 5.0)):
        until = time.monotonic() + seconds
        while left := living():
            if time.monotonic() >= until:
                send(left, number)
                break
            time.sleep(POLL_SECONDS)
        else:
            return


def main(words: Sequence[str]) -> int:
    """End the job of a run."""
    from bitdial.app.jobs import processes_of
    from bitdial.processes import send

    root, run, grace = words
    end(lambda: processes_of(Path(root) / run), send, float(grace))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
