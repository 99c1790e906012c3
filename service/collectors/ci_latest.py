"""The latest conclusive runs of the listed and of the other active workflows, and what they say."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

from service.adapters.github import Refused
from service.collectors import ci_metrics, ci_runs
from service.collectors.ci_ask import GONE, Failure, gathered
from service.collectors.ci_lookup import RunLookup
from service.collectors.ci_memory import Remembered
from service.collectors.ci_metrics import Finding
from service.collectors.ci_settings import GithubCiSettings
from service.collectors.ci_workflows import Workflow, meant
from service.domain.errors import Rejected, Unavailable

LISTS = ("tests_blocking_merge", "benchmarks")
_REMEDY = "infra-health list-workflows prints what there is"


class LatestRuns:
    """In one cycle: ``listed`` are GitHub's workflows, ``known`` what is known of their runs."""

    def __init__(
        self, settings: GithubCiSettings, known: Remembered, listed: Sequence[Workflow], now: datetime
    ) -> None:
        self._known = known
        self._now = now
        self._there = {each.id for each in listed}
        self._missing: dict[int, Failure] = {}
        entries = (settings.tests_blocking_merge, settings.benchmarks)
        self._lists = {name: meant(each, listed) for name, each in zip(LISTS, entries, strict=True)}
        self._ids = {name: _ids(each) for name, each in self._lists.items()}
        self._listed = set().union(*self._ids.values())
        self._others = {each.id for each in listed if each.is_active} - self._listed
        # Listed workflows come first.
        self._every = [*sorted(self._listed), *sorted(self._others)]

    @property
    def is_any_stale(self) -> bool:
        """Whether a latest run is old and was not looked up within a day."""
        return bool(self._known.stale(self._every, self._now))

    async def look_up(self, lookup: RunLookup, allowed: int, stale: int, *, is_thin: bool) -> None:
        """Asks for what is not known, ``allowed`` workflows at most; what stays unknown is noted with the reason.

        Of workflows that GitHub does not list not even the existence is known. ``stale``: how many are asked for that
        are known but old, when all are known. ``is_thin``: none but the listed ones.
        """
        known = self._known
        latest = ci_runs.latest_conclusive(known.runs.values())
        foreign = [each for each in self._every if not (each in self._there or each in latest or each in known.asked)]
        unknown = dict.fromkeys([*foreign, *known.unknown(self._every)])
        wanted = [each for each in unknown if each not in self._missing]
        if is_thin:
            allowed = min(allowed, len(set(wanted) & self._listed))
        asked, left = wanted[:allowed], wanted[allowed:]
        if not wanted and not is_thin:
            asked = known.stale(self._every, self._now)[:stale]
        answers = await gathered([partial(lookup.find_latest, each) for each in asked])
        too_dear = Unavailable("GitHub's quota does not allow to ask for the latest runs of all workflows now")
        self._missing |= dict.fromkeys(left, too_dear)
        for workflow_id, answer in zip(asked, answers, strict=True):
            if isinstance(answer, list):
                known.take_older(workflow_id, answer, self._now)
            elif workflow_id in unknown:
                self._missing[workflow_id] = answer

    def listed_findings(self, name: str) -> Iterator[Finding]:
        """What a list's workflows say, nothing without a list. Raises what stands in the way."""
        entries, missing = self._lists[name], self._missing
        for entry, found in entries.items():
            if not found and (not _is_id(entry) or _is_gone(missing.get(int(entry)))):
                raise Rejected(f'no workflow has the name, file name, path or id "{entry}": {_REMEDY}')
        if entries:
            self._raise_missing(self._ids[name])
            latest = ci_runs.latest_conclusive(self._known.runs.values())
            yield ci_metrics.passing(f"ci.workflow.{name}", [latest.get(each) for each in self._ids[name]])

    def other_finding(self) -> Finding:
        self._raise_missing(self._others)
        latest = ci_runs.latest_conclusive(self._known.runs.values())
        return ci_metrics.failing(latest.get(each) for each in self._others)

    def _raise_missing(self, wanted: set[int]) -> None:
        for workflow_id in sorted(wanted):
            if workflow_id in self._missing:
                raise self._missing[workflow_id]


def _ids(entries: Mapping[str, Sequence[Workflow]]) -> set[int]:
    found = {each.id for workflows in entries.values() for each in workflows}
    # An id that GitHub does not list may still have runs.
    return found | {int(entry) for entry, workflows in entries.items() if not workflows and _is_id(entry)}


def _is_id(entry: str) -> bool:
    return entry.isascii() and entry.isdigit() and len(entry) < 19


def _is_gone(failure: Failure | None) -> bool:
    return isinstance(failure, Refused) and failure.status in GONE
