"""Many repositories in one collector: whose turn it is, what a cycle may cost, and what each question costs. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson

from service.adapters.github import Quota
from service.adapters.github_budget import Tally

_VERSION = 1
# Points of a repository's cycle that is not known yet: two pages of runs and the pull requests.
_GUESS = 3.0
_HOUR = timedelta(hours=1)
_FIRST = 10
# Kept back of the quota, as a share: for the token's other users.
_RESERVE = 0.1
# How much of what a question costs is taken over from the newest cycle.
_NEWEST = 0.3
# The first to wait when the quota is short.
LEAST_URGENT = frozenset({"old workflows", "jobs", "annotations"})


@dataclass(slots=True)
class Fleet:
    """``asked``: when each repository was asked last. ``costs``: points of its steady cycle by question."""

    asked: dict[str, datetime] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    def note(self, repo: str, spent: Tally, is_steady: bool, now: datetime) -> None:
        self.asked[repo] = now
        if not is_steady:
            return
        before = self.costs.get(repo)
        share = _NEWEST if before else 1.0
        names = sorted({*spent.points, *(before or ())})
        self.costs[repo] = {
            name: round(share * spent.points[name] + (1 - share) * (before or {}).get(name, 0.0), 3) for name in names
        }

    def keep(self, repositories: Iterable[str]) -> list[str]:
        """Forgets the repositories that are not configured any more; which."""
        kept = set(repositories)
        gone = [repo for repo in self.asked if repo not in kept]
        for repo in gone:
            del self.asked[repo]
            self.costs.pop(repo, None)
        return gone

    def cost(self, repo: str) -> float:
        return sum(self.costs[repo].values()) if repo in self.costs else _GUESS

    def urgent(self, repositories: Iterable[str]) -> float:
        """Points that a cycle of all ``repositories`` costs, without what can wait."""
        return sum(
            sum(points for name, points in self.costs[repo].items() if name not in LEAST_URGENT)
            if repo in self.costs
            else _GUESS
            for repo in repositories
        )

    def by_question(self, repositories: Iterable[str]) -> dict[str, float]:
        """Points of a cycle of all ``repositories`` by question, the dearest first."""
        total: dict[str, float] = {}
        for repo in repositories:
            for name, points in self.costs.get(repo, {}).items():
                total[name] = total.get(name, 0.0) + points
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def dump(self) -> bytes:
        return orjson.dumps(
            {
                "version": _VERSION,
                "asked": {repo: at.timestamp() for repo, at in self.asked.items()},
                "costs": self.costs,
            }
        )


def load(stored: bytes | None) -> Fleet:
    """What ``dump`` wrote; a fleet that nothing is known of when it can't be read."""
    try:
        state = orjson.loads(stored or b"")
        if state["version"] == _VERSION:
            from_seconds = {repo: datetime.fromtimestamp(at, UTC) for repo, at in state["asked"].items()}
            costs = {str(repo): {str(k): float(v) for k, v in each.items()} for repo, each in state["costs"].items()}
            return Fleet(from_seconds, costs)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        pass
    return Fleet()


@dataclass(frozen=True, slots=True)
class Turn:
    """``repositories``: whose turn it is, who waits longest first. ``cycles``: how many a sweep of all takes.

    ``points``: what the turn may cost; none is begun beyond, for what is new costs more than is known.
    """

    repositories: tuple[str, ...]
    cycles: int = 1
    points: float = math.inf


def first_turn(fleet: Fleet, repositories: Sequence[str]) -> Turn:
    """A few, to learn the quota from GitHub's answers."""
    return Turn(tuple(_waiting(fleet, repositories)[:_FIRST]))


def turn(fleet: Fleet, repositories: Sequence[str], quota: Quota | None, interval: timedelta, now: datetime) -> Turn:
    """As many repositories as the quota allows a cycle, if it is to last for all cycles until its reset."""
    ordered = _waiting(fleet, repositories)
    if quota is None or len(ordered) == 1:
        return Turn(tuple(ordered))
    per_cycle = interval / _HOUR * quota.limit * (1 - _RESERVE)
    total = sum(map(fleet.cost, ordered))
    left = max(0.0, quota.remaining - _RESERVE * quota.limit)
    if total <= per_cycle:
        allowed = left  # all fit every cycle; dear first cycles may use what is there
    else:
        cycles_left = max(1.0, (quota.reset_at - now) / interval)
        allowed = min(left, max(per_cycle, left / cycles_left))
    chosen: list[str] = []
    points = allowed
    for repo in ordered:
        allowed -= fleet.cost(repo)
        if allowed < 0 and chosen:
            break
        chosen.append(repo)
    return Turn(tuple(chosen), max(1, math.ceil(total / max(1.0, per_cycle))), points)


def _waiting(fleet: Fleet, repositories: Sequence[str]) -> list[str]:
    never = datetime.fromtimestamp(0, UTC)
    return sorted(repositories, key=lambda repo: fleet.asked.get(repo, never))


def sweep_text(asked: int, cycles: int, count: int, interval: timedelta) -> str | None:
    """What to tell the operator when one cycle does not do for all repositories, None when it does."""
    if cycles <= 1 and asked == count:
        return None
    needed = cycles if cycles > 1 else math.ceil(count / max(1, asked))
    return (
        f"{asked} of {count} repositories in this cycle: GitHub's quota allows no more; "
        f"a sweep of all takes about {needed * interval.total_seconds() / 60:.0f} minutes"
    )


def an_hour(points: Mapping[str, float], interval: timedelta) -> dict[str, float]:
    """Points a cycle as points an hour."""
    return {name: each * (_HOUR / interval) for name, each in points.items()}
