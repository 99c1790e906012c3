"""How the pages put things: states, lengths of time, numbers."""

from datetime import UTC, datetime

from service.web.charts import OUTCOME_CLASSES
from service.web.views import RUNNING, CollectorView, Lost, RunView

# A tone is a colour and a sign of the style sheet; the word beside it says the same for who sees no colours.
_OUTCOME_TONES = {RUNNING: "busy", **OUTCOME_CLASSES}


def state(collector: CollectorView) -> tuple[str, str]:
    """What to call the collector's state, and its tone."""
    last = collector.last_run
    if collector.running:
        return "Running", "busy"
    if not collector.enabled:
        return "Disabled", "idle"
    if collector.paused:
        return "Paused", "warn"
    if last is None:
        return "No run yet", "idle"
    return {"good": "Healthy", "warn": last.outcome, "bad": "Failing"}.get(tone(last), last.outcome), tone(last)


def tone(run: RunView) -> str:
    return _OUTCOME_TONES.get(run.outcome, "bad")


def is_failing(collector: CollectorView) -> bool:
    """By the last run that ended: a run under way does not make a failing collector well."""
    last, error = collector.last_run, collector.last_error
    if not collector.enabled or last is None:
        return False
    if last.ended:
        return tone(last) == "bad"
    return error is not None and (collector.last_success is None or error.at > collector.last_success)


def span(seconds: float) -> str:
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


def relative(at: datetime, now: datetime) -> str:
    """``4 min ago``, ``in 6 min``; one unit is enough to judge by."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    whole = round(abs(seconds))
    size, unit = next(
        (size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")) if whole >= size
    )
    return f"{whole // size} {unit} ago" if seconds > 0 else f"in {whole // size} {unit}"


def clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def number(value: float) -> str:
    """As short as it can be without losing anything: ``1``, ``0.91``, ``30000``."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def short(value: float) -> str:
    """As a person reads it: six digits at most."""
    return number(value) if len(number(value)) <= 6 else f"{value:.4g}"


_WHY_LOST = {
    "rejected": "Datadog refused them for good",
    "expired": "older than Datadog takes before they could be sent",
    "uncertain": "sent without an answer; sending them again could count them twice",
    "discarded": "the store was full",
    "held_back": "of a series beyond ten times max_series",
}


def why_lost(lost: Lost) -> list[tuple[int, str, str]]:
    """How many points were lost, by what fate, and what that means."""
    return [(count, fate, _WHY_LOST[fate]) for fate, count in lost if count]


def resource(name: str) -> str:
    """GitHub's name of a limit, as its documentation speaks of it."""
    return {"core": "REST", "graphql": "GraphQL"}.get(name, name)
