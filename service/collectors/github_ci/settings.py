"""The settings of ``github_ci``, and the environment of the system that it replaces."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

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
