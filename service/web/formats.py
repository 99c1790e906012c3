"""How values are written for people: numbers, times, outcomes, and what there is to say of a check."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from markupsafe import Markup

from service.domain import conditions, cron
from service.domain.checks import Check
from service.domain.runs import Outcome
from service.domain.samples import LINK, Metric, Status, format_number

RUNNING = "Running"

_TONES: Mapping[str, str] = {
    RUNNING: "busy",
    Outcome.COMPLETE: "good",
    Outcome.PARTIAL: "warn",
    Outcome.REPLACED: "warn",
    Outcome.CANCELLED: "warn",
    Outcome.INTERRUPTED: "warn",
}


def tone(outcome: str) -> str:
    """The colour and sign of the style sheet for a run's outcome; the word beside it says the same."""
    return _TONES.get(outcome, "bad")


def format_sentence(text: str) -> str:
    """With a capital where the first word is one, and no name such as ``tests.yml``."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


def format_span(seconds: float) -> str:
    """A length of time in its two largest units: ``40 ms``, ``4.4 s``, ``1 min 5 s``, ``3 d 2 h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, lesser, lesser_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count} {unit} {rest // lesser_size} {lesser}" if rest >= lesser_size else f"{count} {unit}"
    return f"{whole} s"


def format_clock(at: datetime) -> str:
    return str(at.astimezone(UTC))[:19]


@lru_cache(maxsize=4096)
def describe_schedule(expression: str) -> str:
    """In words where it is simple."""
    return cron.parse(expression).describe()


def format_time(at: datetime) -> str:
    """The instant, and beside it how long ago that is, which the browser fills in."""
    clock = format_clock(at)
    text = f'<time datetime="{at.isoformat()}">{clock}</time> <small data-time="{at.isoformat()}"></small>'
    return Markup(text)  # noqa: S704 - digits alone


def format_ago(at: datetime) -> str:
    """The instant; the browser says instead how long ago it was."""
    clock = format_clock(at)
    text = f'<time datetime="{at.isoformat()}" data-time title="{clock} UTC">{clock}</time>'
    return Markup(text)  # noqa: S704 - digits alone


def link_host(url: str) -> str:
    """Where an address leads, for who is asked to follow it; empty where it is to be no link."""
    found = re.fullmatch(LINK, url)
    return found[1] if found else ""


def summarize(check: Check, metric: Metric | None, status: Status) -> str:
    """What there is to say of a check at first; made of what its metric is where its collector says nothing."""
    why, tags = explain(check, status), check.tags
    if check.summary:
        is_old = status is Status.UNKNOWN and check.status is not Status.UNKNOWN
        return f"{check.summary}; {why}" if is_old else check.summary
    if check.measured_at is None:
        return why
    named = " of ".join(dict.fromkeys((tags["check"], tags["task"]))).replace("_", " ")
    return f"{metric.help.partition(';')[0] if metric and metric.help else named}: {why}"


def explain(check: Check, status: Status) -> str:
    """The verdict in words. ``status``: as of now; the check has the one of its last run."""
    if check.value is None or check.measured_at is None:
        reason = check.summary or "its source has no data for it, or none that is recent enough"
        return f"nothing was measured yet: {reason}"
    condition, written = conditions.parse(check.limit), check.condition.strip()
    value = format_number(check.value)
    if status is Status.UNKNOWN:
        if check.status is not Status.UNKNOWN:
            return "the value is too old to judge by"
        if check.is_missing:
            return check.summary or "nothing was measured lately"
        if check.past:
            return f"{value} has no verdict: its earlier values make no number of {written}"
        return f"{value} has no verdict: {'its source gives none' if condition else 'no threshold is set'}"
    if condition and (check.past or condition.status(check.value) is status):
        holds = condition.status(check.value) is Status.PASS
        limit = f" ({check.limit.strip()})" if check.limit != check.condition else ""
        late = "" if holds is (status is Status.PASS) else ", but not often enough in a row to fail"
        return f"{value} is{'' if holds else ' not'} {written}{limit}{late}"
    return f"the source says {status.value} of {value}"
