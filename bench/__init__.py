"""The benchmarks: ``python -m bench [NAME...]``. Each is a module here with ``run() -> Iterable[Measured]``.

Every figure stands beside a baseline that is measured in the same run on the same machine; times alone mean little.
"""

import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import anyio
import structlog

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure. ``unit`` follows both numbers; ``baseline`` is None where a figure stands for itself."""

    name: str
    value: float
    unit: str = ""
    baseline: float | None = None


def delays(name: str, seconds: Sequence[float], baseline: Sequence[float] = ()) -> Iterator[Measured]:
    """Median, 99th percentile and longest, beside the baseline's."""
    others = _summarize(baseline) if baseline else (None, None, None)
    for which, value, other in zip(("median", "99th percentile", "longest"), _summarize(seconds), others, strict=True):
        yield Measured(f"{name}, {which}", value, "ms", other)


def _summarize(seconds: Sequence[float]) -> tuple[float, float, float]:
    cuts = quantiles(seconds, n=100)
    return 1000 * cuts[49], 1000 * cuts[98], 1000 * max(seconds)


async def note_stalls(stalls: list[float]) -> None:
    """By how many seconds each tick of the loop comes late, until it is cancelled."""
    while True:
        before = time.perf_counter()
        await anyio.sleep(0.002)
        stalls.append(max(0.0, time.perf_counter() - before - 0.002))


def read_memory(name: str, pid: int | str = "self") -> float:
    """MiB of a process: VmRSS, or at its peak VmHWM (not getrusage's, which begins with the parent's)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def processes(count: int) -> ProcessPoolExecutor:
    """So many at once, a new one for each task: none waits for another's turn or pays for its memory."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
