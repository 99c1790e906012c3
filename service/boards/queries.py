"""Metric queries in Datadog's language. Tags that flip (status, condition, version) have no place in any of them."""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from service.domain.naming import kept

# Interpolation ends after five minutes and fill reaches at most ten: a late heartbeat makes no hole.
HOLDS = timedelta(seconds=600)
_HOLD = f".fill(last, {HOLDS.total_seconds():.0f})"


def scope(
    variables: Iterable[str] = (), tags: Mapping[str, str] | None = None, without: Iterable[tuple[str, str]] = ()
) -> str:
    """``$env,task:benchmarks,!check:count``: the template variables, the fixed tags, and those that are left out."""
    parts = [f"${name}" for name in variables] + [kept(name, value) for name, value in (tags or {}).items()]
    parts += [f"!{kept(name, value)}" for name, value in without]
    return ",".join(parts) or "*"


def series(space: str, metric: str, within: str, by: Iterable[str] = (), *, hold: bool = False) -> str:
    """``max:metric{scope} by {tags}``. ``hold``: a heartbeat's series, whose last value stands until the next."""
    groups = ",".join(by)
    return f"{space}:{metric}{{{within}}}" + (f" by {{{groups}}}" if groups else "") + (_HOLD if hold else "")
