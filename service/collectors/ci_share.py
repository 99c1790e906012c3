"""What a steady cycle asks beyond the runs of its window, so that it keeps within its limits. Pure."""

from dataclasses import dataclass

# Of a cycle of a usual repository, whatever it finds: 300 runs a day, any number of workflows.
MOST_REQUESTS, MOST_POINTS = 10, 8
_USUAL = 4  # pages of its window
# Older runs are read before they are due if so many points are left for what the next cycles may need.
_LEFT = 2
# A pass that is so many pages late takes its turn before all jobs but one: a number without an old re-run is wrong, one
# without the jobs only missing for a while.
_LATE = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """``requests``, ``points``: what is left of the cycle's limits. ``front``: pages of the window.

    ``due``: pages of older runs that are due by now. ``attempts``: earlier attempts that the numbers need.
    ``suspects``: runs and jobs to be looked into for time limits; ``stale``: whether old workflows are.
    """

    requests: int
    points: int
    front: int
    due: int
    attempts: int
    suspects: int
    stale: bool


@dataclass(frozen=True, slots=True)
class Share:
    """How many pages of older runs, older unfinished runs, old workflows, and requests for jobs."""

    pages: int = 0
    unfinished: int = 0
    stale: int = 0
    jobs: int = 0


def shared(wanted: Wanted, is_eager: bool) -> Share:
    """Attempts come first, then jobs (a list, and an annotation or more), then older runs, then what can be spared."""
    if wanted.front > _USUAL:
        return Share(wanted.due, 2, int(wanted.stale and not wanted.suspects), 2 * wanted.front)
    room = max(0, min(wanted.requests, wanted.points) - wanted.attempts)
    jobs = min(2 * wanted.suspects, min(1, room - 1) if wanted.due > _LATE else room)
    jobs = max(0, jobs)
    pages = min(wanted.due, room - jobs)
    left = room - jobs - pages
    rest = min(2 * wanted.suspects, left)
    left -= rest
    stale = int(wanted.stale and left > 0)
    more = max(0, left - stale - _LEFT) if is_eager else 0
    return Share(pages + more, left - stale - more, stale, jobs + rest)
