"""How long an HTTP server asks to wait, and the dates in its headers, whatever a broken one writes there."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that Retry-After asks for, None when it asks for nothing; it holds seconds or a date (RFC 9110, 10.2.3).

    A date counts from the answer's own Date, from ``now`` where it has none. ``headers`` know no case.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,15}", text, re.ASCII):
        return float(text)
    until = http_date(text)
    return max(0.0, (until - (http_date(headers.get("date", "")) or now)).total_seconds()) if until else None


def http_date(text: str) -> datetime | None:
    """In UTC; None for what is no date."""
    try:
        date = parsedate_to_datetime(text)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
