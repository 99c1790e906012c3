"""Alerts: changes of a check's state, and the text of the Datadog event that reports one or many of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service.domain.checks import Check, CheckKey, status_at
from service.domain.samples import SERVICE, Evidence, Status, format_number, format_tag

# Limits of POST /api/v1/events: https://docs.datadoghq.com/api/latest/events/#post-an-event
_MAX_TEXT, _MAX_AGGREGATION_KEY, _MAX_TITLE = 4000, 100, 100
_MAX_EVIDENCE = 10  # of a change; an event has no room for more
_MAX_SUMMARY = 500
_ALERT_TYPES = {Status.PASS: "success", Status.FAIL: "error", Status.UNKNOWN: "warning"}


@dataclass(frozen=True, slots=True)
class NotifiedState:
    """The state of a check that was last reported (or first seen), and since when it was so."""

    status: Status
    since: datetime


@dataclass(frozen=True, slots=True)
class StateChange:
    """``check``: what is known of it since the change; ``lasted``: how long the state ``before`` had held."""

    collector: str
    env: str
    before: Status
    lasted: timedelta
    check: Check


@dataclass(frozen=True, slots=True)
class Event:
    """A Datadog event. ``alert_type``: error, warning or success; those of one ``aggregation_key`` belong together."""

    title: str
    text: str
    tags: tuple[str, ...]
    alert_type: str
    at: datetime
    aggregation_key: str


def find_changes(
    collector: str,
    env: str,
    checks: Iterable[Check],
    notified: Mapping[CheckKey, NotifiedState],
    now: datetime,
    max_age: timedelta,
    *,
    notify_after: int = 1,
    interval: timedelta = timedelta(0),
) -> tuple[list[StateChange], dict[CheckKey, NotifiedState]]:
    """What changed against ``notified``, and what is notified from now on. A check that is new is no change.

    A state must have been found by ``notify_after`` runs in a row; one that no run finds, because its value grew too
    old, must have held as long as these take at one an ``interval``. With 1 nothing waits, not even for a run that is
    none by webhook.
    """
    changes, states = [], {}
    for check in checks:
        status, has_held = status_at(check, now, max_age), notify_after == 1 or check.cycles >= notify_after
        if status is not check.status and check.measured_at:
            # A value that grew too old has been unknown since it did.
            check = replace(check, status=status, since=check.measured_at + max_age)
            has_held = now - check.since >= (notify_after - 1) * interval
        before = notified.get(check.key)
        if before and (before.status is check.status or not has_held):
            states[check.key] = before
            continue
        states[check.key] = NotifiedState(check.status, check.since)
        if before:
            check = replace(check, evidence=check.evidence[:_MAX_EVIDENCE])
            lasted = max(timedelta(0), check.since - before.since)
            changes.append(StateChange(collector, env, before.status, lasted, check))
    return changes, states


def format_change(change: StateChange, page_url: str | None) -> Event:
    """One change as one event."""
    check, before = change.check, change.before.value
    lines = [f"**{escape_markdown(check.name)}** went from {before} to **{check.status.value}**.", ""]
    if check.value is not None:
        lines.append(f"- value: {format_number(check.value)}")
    limit = f" ({check.limit})" if check.limit not in ("", check.condition) else ""
    lines.append(f"- condition: {escape_markdown(check.condition + limit) or 'none'}")
    if check.summary:
        lines.append(f"- summary: {escape_markdown(check.summary, _MAX_SUMMARY)}")
    lines.append(f"- since: {_format_time(check.since)}, after {_format_duration(change.lasted)} of {before}")
    if check.metric:
        lines.append(f"- metric: {check.metric}")
    if check.evidence:
        lines += ["- evidence:", *(f"  - {_format_evidence(each)}" for each in check.evidence)]
    tags = {**check.tags, "env": change.env, "service": SERVICE, "collector": change.collector}
    return Event(
        _truncate(f"{check.name}: {before} -> {check.status.value}", _MAX_TITLE),
        _format_text(lines, page_url),
        _format_tags(tags),
        _ALERT_TYPES[check.status],
        check.since,
        _truncate(" ".join(check.tags.values()), _MAX_AGGREGATION_KEY),
    )


def format_summary(changes: Sequence[StateChange], page_url: str | None, now: datetime) -> Event:
    """Many changes as one event: how many they are, and how each check ended up."""
    latest = {change.check.key: change.check for change in changes}.values()
    count = "1 change of a check's state was" if len(changes) == 1 else f"{len(changes)} changes of check states were"
    lines = [f"**{count}** held back: more than the hour's limit.", ""]
    lines += [
        f"- {escape_markdown(each.name)}: {each.status.value} since {_format_time(each.since)}" for each in latest
    ]
    worst = Status.FAIL if any(each.status is Status.FAIL for each in latest) else Status.UNKNOWN
    tags = _format_tags({"env": changes[-1].env, "service": SERVICE})
    text = _format_text(lines, page_url)
    return Event(f"{count} held back", text, tags, _ALERT_TYPES[worst], now, "held back")


def escape_markdown(text: str, length: int = 200) -> str:
    """Foreign text on one line of Datadog's Markdown: it can't make a link, nor end the frame (``%%%``)."""
    line = " ".join(text.replace("%%%", "%").split())
    return "".join(f"\\{char}" if char in "[]*_`" else char for char in line[:length])


def _format_text(lines: Sequence[str], page_url: str | None) -> str:
    link = f"\n\nMore: {page_url}" if page_url else ""
    # Markdown needs this frame: https://docs.datadoghq.com/service_management/events/guides/markdown_events/
    room = _MAX_TEXT - len(link) - len("%%% \n\n %%%") - 1
    text = "\n".join(lines)
    text = text if len(text) <= room else f"{text[:room].rpartition(chr(10))[0]}\n…"
    return f"%%% \n{text}{link}\n %%%"


def _format_tags(tags: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(filter(None, (format_tag(name, value) for name, value in tags.items())))


def _format_evidence(evidence: Evidence) -> str:
    title = escape_markdown(evidence.title) or "without a title"
    is_link = evidence.url.startswith(("https://", "http://")) and not set(evidence.url) & set(" ()<>\n")
    facts = [
        escape_markdown(evidence.note),
        escape_markdown(evidence.workflow),
        escape_markdown(evidence.conclusion),
        escape_markdown(f"commit {evidence.commit[:7]}") if evidence.commit else "",
        escape_markdown(f"by {evidence.author}") if evidence.author else "",
        _format_time(evidence.at) if evidence.at else "",
    ]
    about = ", ".join(filter(None, facts))
    return (f"[{title}]({evidence.url})" if is_link else title) + (f" ({about})" if about else "")


def _truncate(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _format_time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _format_duration(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    days, hours = minutes // 1440, minutes // 60
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
