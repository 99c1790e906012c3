"""What is shown of runs, jobs and pull requests to who asks why: links, and the words of sentences about them."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from service.domain.samples import Evidence

BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
MAX_EVIDENCE = 20
_LONGEST_TEXT, _NAMED = 160, 3
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}")


def make_evidence(
    title: str | None, url: str | None, at: datetime | None, conclusion: str, workflow: str | None = ""
) -> Evidence:
    """Shortened to show; an address that is no plain web address is left out."""
    link = url if url and re.fullmatch(r"https?://[!-~]{1,500}", url) else ""
    return Evidence(shorten(title), link, at, conclusion, shorten(workflow))


def newest(found: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """The few that are shown."""
    return tuple(sorted(found, key=lambda each: each.at or BEGINNING, reverse=True)[:MAX_EVIDENCE])


def shorten(text: str | None) -> str:
    """Foreign text to show: without e-mail addresses, and not too long."""
    return _EMAIL.sub("(e-mail address)", (text or "")[: 2 * _LONGEST_TEXT])[:_LONGEST_TEXT]


def name_some(names: Iterable[str]) -> str:
    """A few of them, and how many more there are."""
    ordered = sorted(set(names))
    more = len(ordered) - _NAMED
    return ", ".join(ordered[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def count(number: int, noun: str, verb: str = "") -> str:
    """``41,000 runs``; with the verb ``was`` or ``has``: ``1 run was``, ``2 runs were``."""
    plural = {"was": "were", "has": "have"}.get(verb, verb)
    return f"{number:,} {noun} {verb}".rstrip() if number == 1 else f"{number:,} {noun}s {plural}".rstrip()


def format_time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def format_span(span: timedelta) -> str:
    """``the last 24 h``, ``the last 7 days``."""
    hours = span / timedelta(hours=1)
    if hours > 24 and hours % 24 == 0:
        return f"the last {hours / 24:.0f} days"
    return f"the last {hours:.4g} h" if hours >= 1 else f"the last {60 * hours:.3g} min"
