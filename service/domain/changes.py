"""Changes of a check's state, and how they are told: one event each, or one for many that were held back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service.domain.checks import Check, CheckKey, status_at
from service.domain.naming import plain, tag
from service.domain.samples import SERVICE, Evidence, Status

# Limits of POST /api/v1/events.
_LONGEST_TEXT, _LONGEST_KEY, _LONGEST_TITLE = 4000, 100, 100
_EVIDENCE = 10
_LEVELS = {Status.PASS: "success", Status.FAIL: "error", Status.UNKNOWN: "warning"}


@dataclass(frozen=True, slots=True)
class Reported:
    """The state that was last told (or first seen) of a check, and since when it was so."""

    status: Status
    since: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """``since``: the instant of the change; ``lasted``: how long the state before it had held."""

    job: str
    env: str
    key: CheckKey
    before: Status
    after: Status
    since: datetime
    lasted: timedelta
    condition: str = ""
    value: float | None = None
    metric: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def name(self) -> str:
        tags = dict(self.key)
        known = ("workflow_name", "task", "check")
        more = [f"{name} {value}" for name, value in self.key if name in ("label", "repo")]
        return " / ".join(tags.get(name, "") for name in known) + (f" ({', '.join(more)})" if more else "")


@dataclass(frozen=True, slots=True)
class WaitingChange:
    """``held``: it is told with others, in one event. ``at``: when it was noticed."""

    id: int
    held: bool
    at: datetime
    change: Change


@dataclass(frozen=True, slots=True)
class Event:
    """What Datadog is told. ``level``: error, warning or success; ``about``: events of one are shown together."""

    title: str
    text: str
    tags: tuple[str, ...]
    level: str
    at: datetime
    about: str


def changed(
    job: str, env: str, checks: Iterable[Check], told: Mapping[CheckKey, Reported], now: datetime, max_age: timedelta
) -> tuple[list[Change], dict[CheckKey, Reported]]:
    """What changed against ``told``, and what is told from now on. A check that was never seen before is no change."""
    changes, states = [], {}
    for check in checks:
        status = status_at(check, now, max_age)
        # A value that grew too old has been unknown since it did.
        since = check.since if status is check.status or not check.measured_at else check.measured_at + max_age
        before = told.get(check.key)
        if before and before.status is status:
            states[check.key] = before
            continue
        states[check.key] = Reported(status, since)
        if before:
            lasted = max(timedelta(0), since - before.since)
            value = check.value if check.status is not Status.UNKNOWN or status is check.status else None
            changes.append(
                Change(
                    job, env, check.key, before.status, status, since, lasted, check.condition, value, check.metric,
                    check.evidence,
                )
            )  # fmt: skip
    return changes, states


def event_of(change: Change, page: str | None) -> Event:
    """One change as one event."""
    facts = [f"**{plain(change.name)}** went from {change.before.value} to **{change.after.value}**.", ""]
    if change.value is not None:
        facts.append(f"- value: {change.value:.6g}")
    facts.append(f"- condition: {plain(change.condition) or 'none'}")
    facts.append(f"- since: {_time(change.since)}, after {_length(change.lasted)} of {change.before.value}")
    if change.metric:
        facts.append(f"- metric: {change.metric}")
    if change.evidence:
        facts += ["- evidence:", *(f"  - {_link(each)}" for each in change.evidence[:_EVIDENCE])]
    title = f"{change.name}: {change.before.value} -> {change.after.value}"
    about = " ".join(value for _, value in change.key)
    return _event(title, facts, page, _tags(change), _LEVELS[change.after], change.since, about)


def event_of_held(changes: Sequence[Change], page: str | None, now: datetime) -> Event:
    """Many changes as one event: how many were held back, and how each check ended up."""
    latest = {change.key: change for change in changes}
    count = "1 change of a check's state was" if len(changes) == 1 else f"{len(changes)} changes of check states were"
    facts = [f"**{count}** held back: more than the hour's share.", ""]
    facts += [f"- {plain(each.name)}: {each.after.value} since {_time(each.since)}" for each in latest.values()]
    worst = Status.FAIL if any(each.after is Status.FAIL for each in latest.values()) else Status.UNKNOWN
    title = f"{count} held back"
    tags = tuple(filter(None, (tag("env", changes[-1].env), tag("service", SERVICE))))
    return _event(title, facts, page, tags, _LEVELS[worst], now, "held back")


def with_evidence(change: Change, most: int = _EVIDENCE) -> Change:
    """``change`` with no more evidence than an event shows."""
    return replace(change, evidence=change.evidence[:most])


def _event(
    title: str, facts: Sequence[str], page: str | None, tags: tuple[str, ...], level: str, at: datetime, about: str
) -> Event:
    where = f"\n\nMore: {page}" if page else ""
    # Markdown needs this frame: https://docs.datadoghq.com/service_management/events/guides/markdown_events/
    room = _LONGEST_TEXT - len(where) - len("%%% \n\n %%%") - 1
    text = "\n".join(facts)
    text = text if len(text) <= room else f"{text[:room].rpartition(chr(10))[0]}\n…"
    return Event(_cut(title, _LONGEST_TITLE), f"%%% \n{text}{where}\n %%%", tags, level, at, _cut(about, _LONGEST_KEY))


def _tags(change: Change) -> tuple[str, ...]:
    named = {**dict(change.key), "env": change.env, "service": SERVICE, "collector": change.job}
    return tuple(filter(None, (tag(name, value) for name, value in named.items())))


def _link(evidence: Evidence) -> str:
    title = plain(evidence.title) or "without a title"
    url = (
        evidence.url
        if evidence.url.startswith(("https://", "http://")) and not set(evidence.url) & set(" ()<>\n")
        else ""
    )
    facts = [plain(evidence.workflow), plain(evidence.conclusion), _time(evidence.at) if evidence.at else ""]
    about = ", ".join(filter(None, facts))
    return (f"[{title}]({url})" if url else title) + (f" ({about})" if about else "")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _length(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    days, hours = minutes // 1440, minutes // 60
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
