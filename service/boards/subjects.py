"""What boards and monitors are about: the checks and collectors of one configuration, as plain values."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from service.domain import conditions
from service.domain.samples import Metric

_CATEGORIES = ("ci", "training", "evaluation")
UNSAID = "none"  # what a required tag says that a collector does not fill
_RUNBOOK = "docs/runbook.md"


@dataclass(frozen=True, slots=True)
class Subject:
    """One metric and the check that it decides.

    ``every``: the longest time between two of its runs. ``only``: tags that tell it from a namesake with another
    condition. ``groups``: tags that split it into several series (repo, label). ``is_catalogued``: its type says
    beforehand what it measures; otherwise it was seen in the store.
    """

    metric: Metric
    category: str
    workflow_name: str
    task: str
    check: str
    condition: str
    every: timedelta
    max_age: timedelta
    only: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    is_catalogued: bool = True

    @property
    def tags(self) -> dict[str, str]:
        """What a query for just this check filters by, its category aside."""
        return {"workflow_name": self.workflow_name, "task": self.task, "check": self.check, **self.only}

    @property
    def title(self) -> str:
        # For most checks of a snapshot the task says it all; the metric tells two values of one check apart.
        name = f"{self.task} / {self.check}" if self.is_catalogued else f"{self.metric.name.rsplit('.', 1)[-1]}"
        # An outside collector need not say whose check a metric is.
        is_placed = {self.workflow_name, self.task, self.check} != {UNSAID}
        about = [f"{self.workflow_name}, {self.task} / {self.check}"] if is_placed and not self.is_catalogued else []
        about += [f"{tag} {value}" for tag, value in self.only.items()]
        return f"{name} ({', '.join(about)})" if about else name

    @property
    def worst(self) -> str:
        """How several series become one number: the one that is nearest to failing."""
        condition = conditions.parse(self.condition)
        if condition is None:
            return "max"
        return "max" if condition.operator.startswith("<") else "min"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Checks that are measured equally often. ``workflow``: the only one; None: all of the category but ``without``."""

    every: timedelta
    subjects: tuple[Subject, ...]
    workflow: str | None = None
    without: tuple[str, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        return {} if self.workflow is None else {"workflow_name": self.workflow}


def rhythms(subjects: Iterable[Subject]) -> list[Rhythm]:
    """The interval of most checks, which holds for those that are still to come, too; then each workflow with another.

    An hourly check must not wait for a weekly one's second measurement before somebody hears of it.
    """
    workflows: dict[str, list[Subject]] = {}
    for each in subjects:
        workflows.setdefault(each.workflow_name, []).append(each)
    longest = {name: max(each.every for each in of) for name, of in workflows.items()}
    if not longest:
        return []
    checks = Counter(
        each.every for of in workflows.values() for each in of if each.every == longest[each.workflow_name]
    )
    usual = min(checks, key=lambda every: (-checks[every], every))
    odd = [name for name, every in longest.items() if every != usual]
    most = tuple(each for name, of in workflows.items() if name not in odd for each in of)
    return [
        Rhythm(usual, most, without=tuple(odd)),
        *(Rhythm(longest[name], tuple(workflows[name]), workflow=name) for name in odd),
    ]


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution, to be shown by its percentiles. ``tags``: the few that shall be queryable."""

    metric: Metric
    category: str
    tags: tuple[str, ...]
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CollectorSubject:
    """``every``: the longest time between two runs. ``spends_quota``: GitHub's."""

    name: str
    every: timedelta
    spends_quota: bool = False


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is shown. ``metrics``: whatever is sent, for the metadata."""

    env: str
    collectors: tuple[CollectorSubject, ...]
    subjects: tuple[Subject, ...]
    spreads: tuple[Spread, ...]
    metrics: tuple[Metric, ...]
    heartbeat: timedelta
    page: str | None = None
    runbook: str | None = None
    notify: tuple[str, ...] = ()

    @property
    def categories(self) -> list[str]:
        """Those that have something to show, the known ones first."""
        found = {each.category for each in self.subjects} | {each.category for each in self.spreads}
        return [name for name in _CATEGORIES if name in found] + sorted(found - set(_CATEGORIES))

    def of(self, category: str) -> list[Subject]:
        return [each for each in self.subjects if each.category == category]

    @property
    def place(self) -> str:
        """ " (staging)" where it is not production, so that two installations' boards are told apart in a list."""
        return "" if self.env == "production" else f" ({self.env})"

    def section(self, anchor: str) -> str:
        """A link into the runbook; its path where no address of it is configured."""
        address = f"{self.runbook or _RUNBOOK}#{anchor}"
        return f"[runbook: {anchor}]({address})" if self.runbook else f"runbook: {address}"

    def page_link(self, path: str = "/") -> str:
        if self.page:
            return f"[the daemon's page]({self.page.rstrip('/')}{path})"
        return f"the daemon's page (kubectl port-forward deployment/infra-health 8080, http://localhost:8080{path})"
