"""The benchmarks: ``python -m bench [NAME...]``. A module here with ``run() -> Iterable[Measured]`` is one.

Every figure stands beside a baseline that is measured in the same run on the same machine; times alone mean little.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import anyio


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure. ``unit`` follows both numbers; ``baseline`` is None where a figure stands for itself.

    ``counted``: it does not depend on the machine (requests, bytes), so it is printed first.
    """

    name: str
    ours: float
    unit: str
    baseline: float | None = None
    counted: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours as a share of the baseline."""
        return self.ours / self.baseline if self.baseline else None


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
