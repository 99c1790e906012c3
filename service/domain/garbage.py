"""Rounds of the garbage collector, put off while a hundred thousand values are made that all stay."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = 0


@contextmanager
def put_off() -> Iterator[None]:
    """No rounds meanwhile. For work of some seconds that makes no cycles: there they find nothing to free, take a
    third of the time, and the longest hold up the event loop for 200 ms."""
    global _pauses
    with _lock:
        _pauses += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if not _pauses:
                gc.enable()
