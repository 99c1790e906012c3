"""Monitors: what wakes somebody. All but the daemon's own health look at the checks' stable series only.

The tags that flip (status, condition) would leave a dead group behind at each flip, which a monitor keeps as "no data".
"""

import hashlib
import re
from datetime import timedelta
from typing import Any

from service.boards.catalogue import Catalogue, CheckPanel, CollectorPanel
from service.boards.widgets import query
from service.config.fields import format_duration
from service.domain.checks import CHECK_AGE, CHECK_STATE
from service.domain.samples import CHECK_TAGS, normalize_tag
from service.pipeline.job import POINTS_LOST, SUCCESS_AGE, UP

Monitor = dict[str, Any]

_MINUTE = timedelta(minutes=1)
_SHORTEST = timedelta(minutes=10)
_LONGEST = timedelta(days=7)  # Datadog's bound: last_10080m
_STALE_INTERVALS = 3
_CHECK = "{{workflow_name.name}}, {{task.name}} / {{check.name}}"
_MAX_SLUG = 40  # characters; a key is a tag's value and so has room for a few of them


def build_monitors(catalogue: Catalogue) -> dict[str, Monitor]:
    """All monitors of one installation by the keys under which they are found again."""
    found = {"nothing-received": _nothing_received(catalogue)} if catalogue.collectors else {}
    for collector in catalogue.collectors:
        for section, monitor in _collector_health(catalogue, collector).items():
            found[f"{section}.{_slug(collector.name)}"] = monitor
    for category in catalogue.categories:
        if checks := catalogue.checks_of(category):
            for section, monitor in _of_checks(catalogue, category, checks).items():
                found[f"{section}.{_slug(category)}"] = monitor
    return found


def _nothing_received(catalogue: Catalogue) -> Monitor:
    """Only silence alerts: no age is below zero. The heartbeat sends this metric between the runs, too."""
    length = _window(catalogue.heartbeat)
    return _monitor(
        catalogue,
        "nothing-received",
        "Nothing received from infra-health",
        f"max({_last(length)}):{query('max', SUCCESS_AGE, tags={'env': catalogue.env})} < 0",
        alert="The age of the last success is below zero: a clock is wrong.",
        no_data=f"Nothing has arrived for {format_duration(2 * length)}: boards and all other monitors are blind.",
        recovery="Points arrive again.",
        priority=1,
        options={"notify_no_data": True, "no_data_timeframe": -(-2 * length // _MINUTE)},
    )


def _collector_health(catalogue: Catalogue, collector: CollectorPanel) -> dict[str, Monitor]:
    """Each collector in its own time: a weekly one's window would hide what an hourly one meets."""
    length, name = _window(collector.every), collector.name
    tags = {"env": catalogue.env, "collector": name}
    down = _monitor(
        catalogue,
        "collector-down",
        f"Collector {name} is down",
        f"max({_last(length)}):{query('max', UP, tags=tags)} < 1",
        alert=f"No run of collector **{name}** has succeeded for {format_duration(length)}.",
        recovery=f"Collector **{name}** succeeds again.",
        priority=2,
    )
    lost = _monitor(
        catalogue,
        "points-lost",
        f"Points of {name} were lost",
        f"max({_last(length)}):{query('max', POINTS_LOST, tags=tags)} > 0",
        alert=f"{{{{value}}}} points of collector **{name}** were lost within the last 24 hours.",
        recovery=f"No point of **{name}** was lost within the last 24 hours.",
    )
    if collector.quota is None:
        return {"collector-down": down, "points-lost": lost}
    remaining, limit = collector.quota
    low = _monitor(
        catalogue,
        "quota-low",
        f"GitHub's quota is nearly used up for {name}",
        f"max({_last(length)}):{query('min', remaining, tags=tags)} / {query('max', limit, tags=tags)} < 0.1",
        alert=f"Less than a tenth of GitHub's quota is left for **{name}**: {{{{value}}}} of 1.",
        recovery=f"GitHub's quota has recovered for **{name}**.",
        priority=4,
    )
    return {"collector-down": down, "points-lost": lost, "quota-low": low}


def _of_checks(catalogue: Catalogue, category: str, checks: list[CheckPanel]) -> dict[str, Monitor]:
    """Each alerts for every check on its own and takes in new ones without a push.

    A check is missing that is unknown, or whose value is older than three of its intervals. What is unknown by nature
    (no threshold is set) has no age, and of series that are not there no sum is made; nor has a check of a paused
    collector.

    The window is that of the checks which are measured most often: a state is sent again until it is measured anew, so
    that a weekly check alerts in this time, too, and an hourly one never waits for it. It waits for those that are to
    be waited for (``notify_after``).
    """
    windows = [_window(each.every, each.notify_after) for each in checks if each.notify_after > 1]
    length = max([_window(min(each.every for each in checks)), *windows])
    oldest = max(max(_STALE_INTERVALS * each.every, each.max_age) for each in checks)
    # A series without the tag would be in no group, so only what all checks have tells them apart. Not the label: the
    # total of all labels has none.
    extra = sorted(frozenset.intersection(*(frozenset(each.groups) for each in checks)) - {"label"})
    by, tags = [*CHECK_TAGS[1:], *extra], {"env": catalogue.env, "workflow_category": category}
    name = f"**{_CHECK}**" + "".join(f" ({each} {{{{{each}.name}}}})" for each in extra)
    state, age = (query("max", metric, tags=tags, by=by) for metric in (CHECK_STATE, CHECK_AGE))
    # The window of a check that has just appeared holds but its first states: it gets its time, too.
    options = {"new_group_delay": int(length.total_seconds())}
    failing = _monitor(
        catalogue,
        "check-failing",
        f"{_CHECK} fails",
        # 1 for fail (1), 0 for pass (0) and for unknown (2): what nobody measured is not failing.
        f"min({_last(length)}):1 - abs({state} - 1) >= 1",
        alert=f"{name} has been failing for {format_duration(length)}.",
        recovery=f"{name} no longer fails.",
        options=options,
    )
    missing = _monitor(
        catalogue,
        "check-missing",
        f"{_CHECK} is missing",
        # The first part is 1 for unknown (2), else 0.
        f"min({_last(length)}):clamp_min({state}, 1) - 1 + {age} / {int(oldest.total_seconds())} >= 1",
        alert=f"{name} has been unknown for {format_duration(length)}, or its value is older than"
        f" {format_duration(oldest)}: nothing says whether it holds.",
        recovery=f"{name} is measured again.",
        options=options,
    )
    return {"checks": failing, "missing": missing}


def _monitor(
    catalogue: Catalogue,
    section: str,
    name: str,
    alert_query: str,
    *,
    priority: int = 3,
    options: dict[str, Any] | None = None,
    **texts: str,
) -> Monitor:
    """``section``: of docs/runbook.md. ``alert_query``: ends in its threshold. ``texts``: what it says when."""
    parts = [f"{{{{#is_{when}}}}}\n{text}\n{{{{/is_{when}}}}}" for when, text in texts.items()]
    parts.append(f"What to do: {catalogue.runbook_link(section)}\nWhere to look: {catalogue.page_link()}")
    return {
        "name": f"[infra-health{catalogue.place}] {name}",
        "type": "query alert",
        "query": alert_query,
        "message": "\n".join([*parts, *catalogue.notify]),
        "tags": [normalize_tag("env", catalogue.env), "service:infra-health"],
        "priority": priority,
        "options": {
            "thresholds": {"critical": float(alert_query.rpartition(" ")[2])},
            "include_tags": True,
            "notify_no_data": False,
            "require_full_window": False,
            **(options or {}),
        },
    }


def _window(every: timedelta, cycles: int = 1) -> timedelta:
    """``cycles`` and one more: long enough to hold two measurements, and never shorter than two heartbeats."""
    return min(max((cycles + 1) * every, _SHORTEST), _LONGEST)


def _last(length: timedelta) -> str:
    return f"last_{-(-length // _MINUTE)}m"


def _slug(text: str) -> str:
    """Part of a key: what a tag keeps as it is, short, and another one for each ``text``."""
    safe = re.sub(r"[^a-z0-9\-]+", "_", text.lower()).strip("_")[:_MAX_SLUG]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
