"""Completed runs from webhooks and watched pages (facts), in memory alone: what a restart loses, the next poll finds.

A delivery is the datum, not only a bell: ``workflow_run`` has the shape of REST's run. A fact is kept for some hours
and merged by every run: one whose state was not stored loses none, and what is known already changes nothing.
https://docs.github.com/webhooks/webhook-events-and-payloads#workflow_run
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import anyio
import msgspec

from service.clock import Clock
from service.collectors.github_ci.models import Named, Run

MAX_FACTS = 10_000
FIRST_DELAY, INTERVAL = 2.0, 10.0  # seconds: what comes within the first is one run; more of them are so far apart
_KEPT = timedelta(hours=3)  # after the end; what is told later than that, a poll has found
_EVENTS = ("workflow_run", "ping")  # others come from anybody who may deliver: labels must stay few
_SIGNED = frozenset({"taken", "ping", "ignored", "invalid"})
_MISSED_AFTER = timedelta(minutes=2)  # after its end: so long a delivery may be under way
_IDLE = 3600.0
_NUMBERS = range(1, 2**63)  # what a state can keep: one that it can't would fail each run until it is forgotten

_Attempt = tuple[int, int]  # a run's id and an attempt's number
_Key = tuple[str, str]  # a collector, and a repository in lower case


class InvalidDelivery(Exception):
    """The body is not of the event's shape; the message names the field."""


@dataclass(slots=True)
class DeliverySummary:
    """What page, ``status`` and /metrics show. ``today`` is the UTC day.

    ``by_result``: since the start, by event and result (``taken``, ``ping``, ``ignored``, ``invalid``, ``unsigned``).
    ``last_at``, ``today``: of those that GitHub had signed.
    ``missed``: ended runs that a poll found first, more than two minutes after their end; since the start.
    ``waiting``: facts that no run used yet; ``dropped``: those that gave way to newer ones, because 10,000 were kept.
    """

    last_at: datetime | None = None
    today: int = 0
    missed_today: int = 0
    by_result: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: int = 0
    dropped: int = 0
    waiting: int = 0


class Deliveries:
    """Completed runs by collector and repository; the oldest go when there are more than 10,000.

    Built once in ``daemon.wiring`` and handed to the collectors in their ``Context`` and to the web in its
    ``AppContext``. All of it is called on the loop, but for ``read_run``.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._collectors: dict[str, list[str]] = {}  # by repository, in lower case
        self._facts: dict[_Key, dict[_Attempt, Run]] = {}
        self._unused: dict[_Key, set[_Attempt]] = defaultdict(set)
        self._delivering_since: dict[str, datetime] = {}  # by repository: when its first delivery came
        self._due: dict[str, float] = {}
        self._last_due: dict[str, float] = {}
        self._changed = anyio.Event()
        self._summary = DeliverySummary()
        self._missed_today: set[tuple[str, _Attempt]] = set()
        self._day: date | None = None

    # The web's part

    def count(self, event: str, result: str) -> None:
        """One delivery of ``event`` was answered with ``result``."""
        summary = self.summary()
        summary.by_result[event if event in _EVENTS else "other", result] += 1
        if result in _SIGNED:
            summary.last_at = self._clock.now()
            summary.today += 1

    def add(self, run: Run) -> bool:
        """Takes a completed run; False when no collector is configured for its repository. The run's collectors are
        due 2 s later, or 10 s after their last run by webhook."""
        repo = run.repository.slug if run.repository else ""
        collectors = self._collectors.get(repo, ())
        for collector in collectors:
            self._delivering_since.setdefault(repo, self._clock.now())
            self._keep(collector, repo, run)
        return bool(collectors)

    def summary(self) -> DeliverySummary:
        """As of now."""
        if (day := self._clock.now().date()) != self._day:
            self._day, self._summary.today, self._summary.missed_today = day, 0, 0
            self._missed_today.clear()
        self._summary.waiting = sum(map(len, self._unused.values()))
        return self._summary

    # The daemon's part

    def expect(self, repositories: Mapping[str, Collection[str]]) -> None:
        """The repositories (any case) of each collector, by collector name; at the start and at each reload."""
        self._collectors = {}
        for collector, repos in repositories.items():
            for repo in repos:
                self._collectors.setdefault(repo.lower(), []).append(collector)
        for key in [key for key in self._facts if key[0] not in self._collectors.get(key[1], ())]:
            del self._facts[key]
            self._unused.pop(key, None)

    async def next_due(self) -> str:
        """Waits for a collector that is to be run because of deliveries, and returns its name."""
        while True:
            self._changed = anyio.Event()
            now = self._clock.monotonic()
            for name in [name for name, due in self._due.items() if due <= now]:
                del self._due[name]
                if self.has_news(name):
                    self._last_due[name] = now
                    return name
            await self._clock.wait(self._changed, min(self._due.values(), default=now + _IDLE) - now)

    # The collectors' part

    def add_watched(self, collector: str, repo: str, runs: Iterable[Run]) -> None:
        """Completed runs that ``collector`` found by itself, as GitHub's list told them."""
        for run in runs:
            self._keep(collector, repo.lower(), run)

    def has_news(self, collector: str, repo: str = "") -> bool:
        """Whether facts wait that no run has used, of this repository where one is named."""
        return any(unused for key, unused in self._unused.items() if key == (collector, repo.lower() or key[1]))

    def facts(self, collector: str, repo: str) -> list[Run]:
        """All that is known for ``repo``, the oldest first, for a run that is about to use copies of them."""
        key, since = (collector, repo.lower()), self._clock.now() - _KEPT
        self._facts[key] = {each: run for each, run in self._facts.get(key, {}).items() if run.updated >= since}
        self._unused.pop(key, None)
        return list(self._facts[key].values())

    def forget(self, collector: str, repo: str, ids: Collection[int]) -> None:
        """Facts of runs that a poll found deleted: the next run by webhook would count them again."""
        key = collector, repo.lower()
        self._facts[key] = {each: run for each, run in self._facts.get(key, {}).items() if each[0] not in ids}
        self._unused[key] -= {each for each in self._unused[key] if each[0] in ids}

    def report_missed(self, repo: str, ended: Iterable[Run]) -> None:
        """What a poll was the first to find; missed are those that a delivery should have brought. None are before the
        first delivery came, and GitHub sends none where no job began."""
        repo, now, summary = repo.lower(), self._clock.now(), self.summary()
        since = self._delivering_since.get(repo, now)
        late = {attempt for key, facts in self._facts.items() if key[1] == repo for attempt in facts}
        for run in ended:
            is_due = since <= run.updated < now - _MISSED_AFTER and run.conclusion != "startup_failure"
            attempt = run.id, run.attempt
            if is_due and attempt not in late and (repo, attempt) not in self._missed_today:
                self._missed_today.add((repo, attempt))
                summary.missed += 1
                summary.missed_today += 1

    def _keep(self, collector: str, repo: str, run: Run) -> None:
        key, attempt = (collector, repo), (run.id, run.attempt)
        facts = self._facts.setdefault(key, {})
        if run.updated < self._clock.now() - _KEPT or (attempt in facts and facts[attempt].updated >= run.updated):
            return  # told too late, or delivered again
        facts[attempt] = run
        self._unused[key].add(attempt)
        if sum(map(len, self._facts.values())) > MAX_FACTS:
            longest = max(self._facts, key=lambda key: len(self._facts[key]))
            oldest = next(iter(self._facts[longest]))
            del self._facts[longest][oldest]
            self._summary.dropped += oldest in self._unused[longest]
            self._unused[longest].discard(oldest)
        if collector not in self._due:
            last = self._last_due.get(collector, -INTERVAL)
            self._due[collector] = max(self._clock.monotonic() + FIRST_DELAY, last + INTERVAL)
            self._changed.set()


class _Action(msgspec.Struct):
    action: str = ""


class _Delivery(msgspec.Struct):
    workflow_run: Run
    repository: Named


def read_run(body: bytes) -> Run | None:
    """The completed run of a ``workflow_run`` delivery, None where it is of no concern (another action, no
    conclusion). ``repository.full_name`` of the run says whose it is. CPU work: in a thread for a large body.

    Raises InvalidDelivery.
    """
    try:
        if msgspec.json.decode(body, type=_Action).action != "completed":
            return None
        delivery = msgspec.json.decode(body, type=_Delivery)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidDelivery(f"this is no workflow_run event: {error}") from error
    run = delivery.workflow_run
    if any(number not in _NUMBERS for number in (run.id, run.workflow_id, run.attempt)):
        raise InvalidDelivery("this is no workflow_run event: ids and attempts are whole numbers of 64 bits, from 1")
    run.repository = delivery.repository
    if not delivery.repository.slug:
        raise InvalidDelivery("this is no workflow_run event: it has no $.repository.full_name")
    return run if run.has_ended else None
