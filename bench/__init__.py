"""The benchmarks: ``python -m bench [NAME...]``. A module here with ``run() -> Iterable[Measured]`` is one.

Every figure stands beside a baseline that is measured in the same run on the same machine; times alone mean little.
"""

from dataclasses import dataclass


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
