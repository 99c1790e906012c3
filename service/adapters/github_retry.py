"""GitHub's rules for asking again, after octokit's: pure, from an answer's status, headers and message.

https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from service.adapters.retry_after import http_date, retry_after
from service.domain.errors import Rejected

# A broken clock on either side must not close a resource for longer than GitHub's window of an hour.
_LONGEST_WINDOW = 3600.0
_LONGEST_UNSAID = 3600.0
REDIRECTS = (301, 302, 307, 308)


@dataclass(frozen=True, slots=True)
class Quota:
    """A primary limit of one resource (core, search, graphql), in points: at most ``limit`` until ``reset_at``."""

    limit: int
    remaining: int
    reset_at: datetime
    used: int


@dataclass(frozen=True, slots=True)
class Limit:
    """A refusal that time mends. ``resource``: what is closed, None for all of GitHub (a secondary limit).

    ``wait``: seconds until GitHub wants to be asked again, None where it did not say.
    """

    resource: str | None
    wait: float | None


def quota_of(headers: Mapping[str, str], resource: str) -> tuple[str, Quota] | None:
    """The resource and the state of its limit as an answer tells it, None when it tells none (as Enterprise may)."""
    numbers = {name: _whole(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "reset", "used")}
    limit, remaining, reset = numbers["limit"], numbers["remaining"], numbers["reset"]
    if limit is None or remaining is None or reset is None:
        return None
    used = numbers["used"] if numbers["used"] is not None else max(0, limit - remaining)
    try:
        reset_at = datetime.fromtimestamp(reset, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return headers.get("x-ratelimit-resource", resource), Quota(limit, remaining, reset_at, used)


def limit_of(status: int, headers: Mapping[str, str], message: str, resource: str, now: datetime) -> Limit | None:
    """The limit that a 403 or 429 stands for, None for a plain refusal."""
    if status not in (403, 429):
        return None
    text = message.lower()
    is_secondary = "secondary rate" in text or "abuse" in text
    is_exhausted = headers.get("x-ratelimit-remaining") == "0"
    wait = retry_after(headers, now)
    if wait is not None:
        wait = min(wait, _LONGEST_WINDOW)
    if status == 403 and wait is None and not is_exhausted and not is_secondary and "rate limit" not in text:
        return None
    if wait is None and is_exhausted:
        wait = until_reset(headers, now)
    return Limit(resource if is_exhausted and not is_secondary else None, wait)


def until_reset(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds until the primary limit's window ends, by GitHub's own clock where the answer has a Date."""
    reset = _whole(headers.get("x-ratelimit-reset"))
    if reset is None:
        return None
    here = (http_date(headers.get("date", "")) or now).timestamp()
    return min(max(0.0, reset - here) + 1.0, _LONGEST_WINDOW)


def unsaid_wait(strikes: int) -> float:
    """Seconds to wait where GitHub refused without saying how long: a minute, doubled with each refusal in a row."""
    return min(60.0 * 2.0 ** min(strikes, 10), _LONGEST_UNSAID)


def is_transient(status: int) -> bool:
    """Whether the same request may well succeed in a moment."""
    return status == 408 or status >= 500


def graphql_address(base: str) -> str:
    """Below the base; on an Enterprise server beside ``/v3``.

    https://docs.github.com/enterprise-server/graphql/guides/forming-calls-with-graphql
    """
    return f"{base.removesuffix('/v3')}/graphql" if base.endswith("/api/v3") else f"{base}/graphql"


def redirect_target(url: httpx.URL, location: str, base: httpx.URL) -> httpx.URL:
    """Where ``location`` leads from ``url``. Raises Rejected unless that is on the base address' own server."""
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError) as error:
        raise Rejected("GitHub redirects to something that is no address") from error
    if not location or origin(target) != origin(base) or target.userinfo:
        raise Rejected(
            f"GitHub redirects from {base.host} to another server ({target.scheme}://{target.host or '?'}); it is not "
            "followed, for the token must not go there: set GITHUB_API_URL if GitHub moved"
        )
    return target.copy_with(fragment=None)


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port, the port filled in."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,15}", text, re.ASCII) else None
