"""The settings of ``github_ci``, the environment of the system that it replaces, and which workflows they mean."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from service.collectors.github_ci.models import Run, Workflow, WorkflowRuns
from service.collectors.thresholds import Threshold
from service.config import fields
from service.config.settings import CollectorSettings, Section, Text

_DAY = timedelta(days=1)


def check_repository(name: str) -> str:
    """Names as GitHub allows them, so that they are safe in a path and in a search."""
    owner, _, repository = name.partition("/")
    is_name = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", owner) and re.fullmatch(r"[A-Za-z0-9._-]+", repository)
    if not is_name or repository in (".", ".."):
        raise ValueError(f'must be OWNER/NAME such as Metta-AI/metta, not "{name}"')
    if repository.endswith(".git"):
        raise ValueError(f'must be the name without ".git": {name.removesuffix(".git")}')
    return name


def _check_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """GitHub's names have no case: one repository twice would overwrite its own series."""
    if len({name.lower() for name in names}) < len(names):
        raise ValueError("names a repository twice")
    return names


# The settings' keys: workflows whose latest runs are a check; and labels by the name of what is counted.
LISTS = ("tests_blocking_merge", "benchmarks")
LABELS = {"hotfix": "hotfix_labels", "force_merge": "force_merge_labels", "reverts": "revert_labels"}

Repository = Annotated[str, AfterValidator(check_repository)]
Labels = tuple[Text, ...]
# A YAML file gives an id as a number.
WorkflowEntry = Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]
Workflows = tuple[WorkflowEntry, ...]
# GitHub runs schedules every five minutes at most; less is a number whose unit was forgotten.
Limit = Annotated[timedelta, Field(ge=timedelta(minutes=5)), BeforeValidator(fields.read_duration)]


def _tell_form(value: Any) -> str:
    """A number, or a condition: its text, or a mapping."""
    is_condition = isinstance(value, dict | Threshold) or (
        isinstance(value, str) and re.search(r"[<>=x\[{]|\.\.", value)
    )
    return "condition" if is_condition else "number"


# The number below which a check passes, or a condition of its own.
Bound = Annotated[
    Annotated[float, Field(ge=0), Tag("number")] | Annotated[Threshold, Tag("condition")], Discriminator(_tell_form)
]


class Thresholds(Section):
    """Where each check turns from pass to fail; p90 in minutes, all others are counts. A condition that is relative
    compares with a value a window: those of a window that rolls say nearly the same.

    Without a threshold (the default) open bugs and the branch's red minutes have no verdict.
    """

    flaky_tests: Bound = 10
    p90_minutes: Bound = 5
    cancelled: Bound = 10
    hotfix: Bound = 5
    force_merge: Bound = 7
    revert: Bound = 1
    timed_out: Bound = 10
    bugs: Bound | None = None
    red_minutes: Bound | None = None


class GithubCiSettings(CollectorSettings):
    """``tests_blocking_merge``, ``benchmarks``: workflows by name, file name, path or id.

    ``expected``: workflows that a schedule runs, by any of these, each with the longest time between two of these runs.
    ``repositories``: many in one collector, in place of ``repo``; their samples are told apart by the tag repo.
    ``watch``: how often to look for runs that ended, where no webhook can tell of them; None: never.
    """

    repo: Repository = "Metta-AI/metta"
    repositories: Annotated[tuple[Repository, ...], AfterValidator(_check_distinct)] = ()
    branch: Text = "main"
    history_window: Annotated[timedelta, Field(gt=timedelta(0), le=30 * _DAY)] = _DAY
    weekly_window: Annotated[timedelta, Field(gt=timedelta(0), le=366 * _DAY)] = 7 * _DAY
    hotfix_labels: Labels = ("hotfix",)
    force_merge_labels: Labels = ("force-merge", "force_merge")
    revert_labels: Labels = ("revert",)
    bug_label: str = "bug"
    bug_sub_labels: Labels = ()
    tests_blocking_merge: Workflows = ()
    benchmarks: Workflows = ()
    expected: dict[WorkflowEntry, Limit] = Field(default_factory=dict)
    thresholds: Thresholds = Thresholds()
    watch: Annotated[timedelta, Field(ge=timedelta(seconds=5))] | None = None

    legacy_names: ClassVar[Mapping[str, str]] = {
        "repo": "METTA_GITHUB_REPO",
        "branch": "METTA_GITHUB_BRANCH",
        "history_window": "CI_HISTORY_WINDOW_HOURS",
        "weekly_window": "CI_WEEKLY_WINDOW_DAYS",
        "hotfix_labels": "METTA_GITHUB_HOTFIX_LABELS",
        "force_merge_labels": "METTA_GITHUB_FORCE_MERGE_LABELS",
        "revert_labels": "METTA_GITHUB_REVERT_LABELS",
        "tests_blocking_merge": "CI_TESTS_BLOCKING_MERGE_WORKFLOWS",
        "benchmarks": "CI_BENCHMARKS_WORKFLOWS",
        "thresholds.flaky_tests": "CI_FLAKY_TEST_THRESHOLD",
        "thresholds.p90_minutes": "CI_P90_DURATION_MINUTES",
        "thresholds.cancelled": "CI_CANCELLED_THRESHOLD",
        "thresholds.hotfix": "CI_HOTFIX_THRESHOLD",
        "thresholds.force_merge": "CI_FORCE_MERGE_THRESHOLD",
        "thresholds.revert": "CI_REVERT_THRESHOLD",
    }

    @property
    def all_repositories(self) -> tuple[str, ...]:
        return self.repositories or (self.repo,)

    @property
    def watch_interval(self) -> timedelta | None:
        """How often each repository is looked at: at most one a second, for the other requests' sake."""
        return self.watch and max(self.watch, timedelta(seconds=len(self.all_repositories)))

    @property
    def looks_an_hour(self) -> int:
        """A point each at most; one that finds nothing new is free."""
        interval = self.watch_interval
        return round(len(self.all_repositories) * (timedelta(hours=1) / interval)) if interval else 0

    @classmethod
    def legacy_environment(cls, values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """As the base class says; the replaced system's windows are plain numbers of hours and days."""
        found = super().legacy_environment(values, environ)
        for key, unit in (("history_window", "h"), ("weekly_window", "d")):
            if re.fullmatch(r"\s*\d+(\.\d+)?\s*", found.get(key, "")):
                found[key] = f"{found[key].strip()}{unit}"
        return found


class WorkflowLists:
    """What the settings' ``lists`` mean among the workflows that are ``listed``, and which are the ``others``.

    A name that repeats means all of that name; an id that GitHub does not list may still have runs.
    ``missing``: by list, what to tell of an entry that means no workflow. ``asleep``: those on no list that GitHub
    disabled for inactivity. ``disabled``: those on a list that no event starts any more.
    """

    def __init__(self, lists: Mapping[str, Sequence[str]], listed: Sequence[Workflow]) -> None:
        self._by_id = {each.id: each for each in listed}
        self.names = {each.id: each.name for each in listed}
        self.missing: dict[str, str] = {}
        self.ids: dict[str, set[int]] = {name: set() for name in lists}
        for name, entry in ((name, entry) for name, entries in lists.items() for entry in entries):
            meant = {each.id for each in self.find(entry)}
            if not meant and re.fullmatch("[0-9]{1,18}", entry):
                meant = {int(entry)}
            if not meant:
                self.missing.setdefault(name, describe_missing(entry))
            self.ids[name] |= meant
        on_lists: set[int] = set().union(*self.ids.values())
        self.others = {each.id for each in listed if each.state == "active"} - on_lists
        self.all = [*sorted(on_lists), *sorted(self.others)]
        self.asleep = [each for each in listed if each.state == "disabled_inactivity" and each.id not in on_lists]
        self.disabled = [each for each in listed if each.id in on_lists and each.state != "active"]

    def find(self, entry: str) -> list[Workflow]:
        """Those that an entry of the settings means."""
        return [each for each in self._by_id.values() if each.is_meant_by(entry)]

    def join(self, ids: Iterable[int], runs: Mapping[int, Sequence[Run]]) -> list[WorkflowRuns]:
        """The workflows of these ``ids`` with their ``runs``."""
        rows = (self._by_id.get(id) or Workflow(id, "") for id in ids)
        return [WorkflowRuns(row.file, runs.get(row.id, ()), row.created) for row in rows]

    def list_of(self, id: int) -> str | None:
        """The list that means a workflow."""
        return next((name for name, ids in self.ids.items() if id in ids), None)


def describe_missing(entry: str) -> str:
    return f'no workflow has the name, file name, path or id "{entry}": `infra-health list-workflows` shows them all'
