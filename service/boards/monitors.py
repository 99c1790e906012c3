"""Monitors: what wakes somebody. All but the daemon's own health look at ``metta.infra.check.state`` only.

The fleeting tags (status, condition) would leave a dead group behind at each flip, which a monitor keeps as "no data".
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from service.boards import queries
from service.boards.health import CHECK_GROUPS
from service.boards.subjects import Catalogue, CollectorSubject, Subject, rhythms
from service.domain.checks import CHECK_STATE
from service.domain.naming import kept
from service.pipeline.job import POINTS_LOST, QUOTA_LIMIT, QUOTA_REMAINING, SUCCESS_AGE, UP

_MINUTE = timedelta(minutes=1)
_SHORTEST = timedelta(minutes=10)
_LONGEST = timedelta(days=7)  # Datadog's bound: last_10080m
_LONGEST_SLUG = 40  # characters; a key is a tag's value and so has room for a few of them
_TENTH = 0.1


@dataclass(frozen=True, slots=True)
class Monitor:
    """``key``: by which it is found again. ``section``: of docs/runbook.md."""

    key: str
    section: str
    content: dict[str, Any]


def monitors(catalogue: Catalogue) -> list[Monitor]:
    """All monitors of one installation, without their marks."""
    found = [_nothing_received(catalogue)] if catalogue.collectors else []
    for each in catalogue.collectors:
        # Each in its own time: a weekly collector's window would hide what an hourly one meets.
        found += [_collector_down(catalogue, each), _points_lost(catalogue, each)]
        if each.spends_quota:
            found.append(_quota_low(catalogue, each))
    return found + list(_checks(catalogue))


def window(every: timedelta) -> timedelta:
    """Two intervals: long enough to hold two measurements, and never shorter than two heartbeats."""
    return min(max(2 * every, _SHORTEST), _LONGEST)


def _span(length: timedelta) -> str:
    return f"last_{-(-length // _MINUTE)}m"


def _words(length: timedelta) -> str:
    minutes = round(length / _MINUTE)
    if minutes % 1440 == 0:
        return f"{minutes // 1440} d"
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"


def _cycles(length: timedelta, every: timedelta) -> str:
    return f"two cycles ({_words(length)})" if length == 2 * every else _words(length)


def _collector_down(catalogue: Catalogue, collector: CollectorSubject) -> Monitor:
    length = window(collector.every)
    within = _of(catalogue, collector)
    return _monitor(
        catalogue,
        f"collector-down.{_slug(collector.name)}",
        "collector-down",
        f"Collector {collector.name} is down",
        f"max({_span(length)}):{queries.series('max', UP.name, within)} < 1",
        1.0,
        alert=f"No run of collector **{collector.name}** has succeeded for {_cycles(length, collector.every)}.",
        recovery=f"Collector **{collector.name}** succeeds again.",
        priority=2,
    )


def _nothing_received(catalogue: Catalogue) -> Monitor:
    """Only silence alerts: no age is below zero. The heartbeat sends this metric between the runs, too."""
    length = window(catalogue.heartbeat)
    query = queries.series("max", SUCCESS_AGE.name, queries.scope(tags={"env": catalogue.env}))
    return _monitor(
        catalogue,
        "nothing-received",
        "nothing-received",
        "Nothing received from infra-health",
        f"max({_span(length)}):{query} < 0",
        0.0,
        alert="The age of the last success is below zero: a clock is wrong.",
        recovery="Points arrive again.",
        priority=1,
        no_data=(2 * length, f"Nothing has arrived for {_words(2 * length)}: boards and all other monitors are blind."),
    )


def _points_lost(catalogue: Catalogue, collector: CollectorSubject) -> Monitor:
    query = queries.series("max", POINTS_LOST.name, _of(catalogue, collector))
    return _monitor(
        catalogue,
        f"points-lost.{_slug(collector.name)}",
        "points-lost",
        f"Points of {collector.name} were lost",
        f"max({_span(window(collector.every))}):{query} > 0",
        0.0,
        alert=f"{{{{value}}}} points of collector **{collector.name}** were lost within the last 24 hours.",
        recovery=f"No point of **{collector.name}** was lost within the last 24 hours.",
        priority=3,
    )


def _quota_low(catalogue: Catalogue, collector: CollectorSubject) -> Monitor:
    within = _of(catalogue, collector)
    left = queries.series("min", QUOTA_REMAINING.name, within)
    limit = queries.series("max", QUOTA_LIMIT.name, within)
    return _monitor(
        catalogue,
        f"quota-low.{_slug(collector.name)}",
        "quota-low",
        f"GitHub's quota is nearly used up for {collector.name}",
        f"max({_span(window(collector.every))}):{left} / {limit} < {_TENTH}",
        _TENTH,
        alert=f"Less than a tenth of GitHub's quota is left for **{collector.name}**: {{{{value}}}} of 1.",
        recovery=f"GitHub's quota has recovered for **{collector.name}**.",
        priority=4,
    )


def _of(catalogue: Catalogue, collector: CollectorSubject) -> str:
    return queries.scope(tags={"env": catalogue.env, "collector": collector.name})


def _checks(catalogue: Catalogue) -> Iterator[Monitor]:
    """One for each check that is known beforehand, and one a category for the checks that come with snapshots.

    The second kind alerts for each check on its own and takes in new ones without a push.
    """
    once: dict[tuple[Any, ...], Subject] = {}
    for each in catalogue.subjects:
        if each.is_catalogued:
            once.setdefault((each.category, *each.tags.items()), each)
    for each in once.values():
        name = ".".join(_slug(part) for part in (each.category, *each.tags.values()))
        yield _check_failing(
            catalogue, f"check.{name}", each.title, {"workflow_category": each.category, **each.tags},
            (*CHECK_GROUPS, *_alerting(each)),
            each.every, f"{each.metric.help}; it passes while the value is {each.condition}",
        )  # fmt: skip
    for category in catalogue.categories:
        seen = [each for each in catalogue.of(category) if not each.is_catalogued]
        for rhythm in rhythms(seen):
            # A series without the tag would be in no group: only what all of them have tells them apart.
            extra = sorted(set[str].intersection(*(set(_alerting(each)) for each in rhythm.subjects)))
            title = "{{workflow_name.name}}, {{task.name}} / {{check.name}}"
            key = ".".join(["checks", *map(_slug, (category, *rhythm.tags.values()))])
            yield _check_failing(
                catalogue, key, title, {"workflow_category": category, **rhythm.tags}, (*CHECK_GROUPS, *extra),
                rhythm.every, "its snapshot record says what it expects", rhythm.without,
            )  # fmt: skip


def _alerting(subject: Subject) -> tuple[str, ...]:
    """By which tags a check alerts. Not by label: the total of all labels has none."""
    return tuple(name for name in subject.groups if name != "label")


def _check_failing(
    catalogue: Catalogue,
    key: str,
    title: str,
    tags: dict[str, str],
    groups: tuple[str, ...],
    every: timedelta,
    meaning: str,
    without: Iterable[str] = (),
) -> Monitor:
    """``without``: workflows that have a monitor of their own."""
    length = window(every)
    left_out = [("workflow_name", name) for name in without]
    within = queries.scope(tags={"env": catalogue.env, **tags}, without=left_out)
    state = queries.series("max", CHECK_STATE.name, within, groups)
    where = "".join(f" ({name} {{{{{name}.name}}}})" for name in groups if name not in CHECK_GROUPS)
    return _monitor(
        catalogue,
        key,
        "check-failing",
        f"{title} fails",
        # 1 for fail (1), 0 for pass (0) and for unknown (2): what nobody measured is not failing.
        f"min({_span(length)}):1 - abs({state} - 1) >= 1",
        1.0,
        alert=f"**{title}**{where} has been failing for {_cycles(length, every)}: {meaning}.",
        recovery=f"**{title}**{where} no longer fails.",
        priority=3,
        # The window of a check that has just appeared holds but its first states: it gets its time, too.
        new_group_delay=length,
    )


def _monitor(
    catalogue: Catalogue,
    key: str,
    section: str,
    name: str,
    query: str,
    critical: float,
    *,
    alert: str,
    recovery: str,
    priority: int,
    no_data: tuple[timedelta, str] | None = None,
    new_group_delay: timedelta | None = None,
) -> Monitor:
    """``new_group_delay``: of a query with groups; Datadog refuses it for any other."""
    options: dict[str, Any] = {
        "thresholds": {"critical": critical},
        "include_tags": True,
        "notify_audit": False,
        "notify_no_data": no_data is not None,
        "require_full_window": False,
        "renotify_interval": 0,
    }
    if new_group_delay:
        options["new_group_delay"] = int(new_group_delay.total_seconds())
    parts = [f"{{{{#is_alert}}}}\n{alert}\n{{{{/is_alert}}}}"]
    if no_data:
        options["no_data_timeframe"] = -(-no_data[0] // _MINUTE)
        parts.append(f"{{{{#is_no_data}}}}\n{no_data[1]}\n{{{{/is_no_data}}}}")
    parts.append(f"{{{{#is_recovery}}}}\n{recovery}\n{{{{/is_recovery}}}}")
    parts.append(f"What to do: {catalogue.section(section)}\nWhere to look: {catalogue.page_link()}")
    if catalogue.notify:
        parts.append(" ".join(catalogue.notify))
    content = {
        "name": f"[infra-health{catalogue.place}] {name}",
        "type": "query alert",
        "query": query,
        "message": "\n".join(parts),
        "tags": [kept("env", catalogue.env), "service:infra-health"],
        "priority": priority,
        "options": options,
    }
    return Monitor(key, section, content)


def _slug(text: str) -> str:
    """Part of a key: what a tag keeps as it is, short, and another one for each ``text``."""
    plain = re.sub(r"[^a-z0-9\-]+", "_", text.lower()).strip("_")[:_LONGEST_SLUG]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
