"""Samples: what a collector measures and Datadog gets. Names and tags as Datadog takes them.

https://docs.datadoghq.com/developers/guide/what-best-practices-are-recommended-for-naming-metrics-and-tags/
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

# The tags that say what a sample is about, in the order in which they are written; the dashboards group by them.
CHECK_TAGS = ("workflow_category", "workflow_name", "task", "check")
REQUIRED_TAGS = ("source", *CHECK_TAGS, "condition", "status", "env", "service", "version")
# The `service` tag of everything that is measured; the daemon's metrics of itself carry the replaced CronJob's instead.
SERVICE = "infra-health-dashboard"

# The intake drops a point silently when it is older than an hour or more than ten minutes ahead.
# https://docs.datadoghq.com/api/latest/metrics/#submit-metrics
MAX_POINT_AGE = timedelta(minutes=55)
MAX_POINT_AHEAD = timedelta(minutes=10)

MAX_NAME_LENGTH = 200  # characters, of a metric's name and of a tag "name:value" alike
# An http(s) address without a user name and without what a browser reads otherwise or text has to escape.
LINK = r"https?://(([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?)([/?#][!#-;=?-\[\]-~]*)?"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.]")
# What Datadog does not keep of a tag: each stretch of it becomes one underscore.
_NOT_IN_A_STORED_TAG = re.compile(r"(?:[^\w\-:./]|_)+")
# Control characters, line and paragraph separators, and the halves of surrogate pairs, which no JSON text can hold.
_NOT_IN_JSON = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Kind(StrEnum):
    """How Datadog aggregates a metric."""

    GAUGE = "gauge"
    COUNT = "count"
    DISTRIBUTION = "distribution"


class Status(StrEnum):
    """The verdict of a check on its value."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Metric:
    """One name of the catalogue. ``unit`` is one of Datadog's unit names, empty where it has none."""

    name: str
    kind: Kind = Kind.GAUGE
    unit: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing behind a number (a run, a job, a pull request). It never goes to Datadog as a metric.

    ``url``: where to look, empty where there is no such place. ``conclusion``: as the source words it.
    ``commit``: its hash. ``author``: of the commit, or who owns the check. ``note``: what sets it apart ("first red").
    """

    title: str
    url: str = ""
    at: datetime | None = None
    conclusion: str = ""
    workflow: str = ""
    commit: str = ""
    author: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """How the past of a check decides with its condition.

    ``last``, ``skip``: a relative condition (``>= 0.85x``) compares with the median of the ``last`` values before the
    present one, after skipping the newest ``skip``. ``apart``: of values that are nearer to each other than this one
    counts (those of a window that rolls overlap). ``fail_after``: so many values in a row must fail before the check.
    """

    last: int = 10
    skip: int = 0
    apart: timedelta = timedelta(0)
    fail_after: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series.

    ``value``: what is no finite number is left out of the run and reported.
    ``at``: the timestamp that Datadog gets, aware.
    ``measured_at``: when the value was true, where that is earlier (a value carried over from an older file).
    ``interval``: seconds that a count covers; filled from the schedule where the collector leaves it None.
    ``evidence``: what is behind the value, first what tells most, or is newest. ``summary``: the same as a sentence ("2
    of 23 runs on main failed in the last 24 h"). Neither goes to Datadog as a metric.
    ``rule``: by which the daemon judges the value, whatever the tag status says; None: by the condition alone.
    """

    metric: Metric
    value: float
    at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    measured_at: datetime | None = None
    interval: int | None = None
    evidence: tuple[Evidence, ...] = ()
    summary: str = ""
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError(f"{self.metric.name}: the time {self.at} has no zone")

    @property
    def measured(self) -> datetime:
        return self.measured_at or self.at

    def as_json(self) -> dict[str, object]:
        """The shape of ``--dry-run`` and ``-o``."""
        return {
            "metric": self.metric.name,
            "value": self.value,
            "tags": dict(self.tags),
            "kind": self.metric.kind.value,
            "timestamp": self.at.isoformat(),
        }


def format_number(value: float | None, digits: int = 6) -> str:
    """As people write it: ``41,000``, ``0.916667``; beyond 15 digits as a power of ten; nothing where there is none."""
    if value is None:
        return ""
    if abs(value) >= 1e15:
        return f"{value:.4g}"
    is_whole = value == round(value) or abs(value) >= 10 ** (digits - 1)
    return f"{value + 0.0:,.0f}" if is_whole else f"{value:,.{digits}g}"


@lru_cache(maxsize=4096)
def normalize_metric_name(name: str) -> str | None:
    """``name`` with what Datadog doesn't take as underscores, cut to 200; None when it does not begin with a letter."""
    if not name[:1].isascii() or not name[:1].isalpha():
        return None
    return _NOT_IN_A_NAME.sub("_", name)[:MAX_NAME_LENGTH]


@lru_cache(maxsize=16_384)  # they repeat all the time
def format_tag(name: str, value: str) -> str | None:
    """``name:value`` without what Datadog refuses, None when nothing remains (no letter first, no value).

    Lower-casing and underscores are left to Datadog, so that a condition travels as written.
    """
    text = f"{name}:{value}"
    if not text.isprintable():
        text = _NOT_IN_JSON.sub("_", text)
    text = text[:MAX_NAME_LENGTH].rstrip(": ")
    if not name[:1].isalpha() or not value.strip(": ") or len(text) <= len(name):
        return None
    return text


def normalize_tag(name: str, value: str) -> str:
    """``name:value`` as Datadog stores it, which is how a filter has to write it: in lower case, one underscore for
    other characters that follow each other and none at the end."""
    text = _NOT_IN_A_STORED_TAG.sub("_", (format_tag(name, value) or f"{name}:{value}").lower())
    return text[:MAX_NAME_LENGTH].rstrip("_:")


def normalize_tag_value(name: str, value: str) -> str:
    """The value alone of ``normalize_tag``."""
    return normalize_tag(name, value).partition(":")[2]


@lru_cache(maxsize=4096)
def normalize_tag_name(name: str) -> str:
    """The tag that Datadog reads where one of this name is sent: ``Workflow name`` is workflow_name, ``env:x`` env."""
    return _NOT_IN_A_STORED_TAG.sub("_", name.partition(":")[0].strip().lower())
