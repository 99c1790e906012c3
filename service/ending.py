"""The end of a process in which something will not end: a collector that ignores its cancellation, a thread."""

import os
import sys
import threading


def leave_within(seconds: float, code: int) -> None:
    """Ends the process with ``code`` after ``seconds`` at the latest; call it when nothing is left to be kept.

    A task that swallows its cancellation can't be stopped from within the loop, nor a thread from anywhere.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
