"""Metric queries in Datadog's language. Tags that flip (status, condition, version) have no place in any of them."""

import re
from collections.abc import Iterable, Mapping

from service.domain.naming import LONGEST

# What Datadog keeps of a tag; all else becomes an underscore, so a filter has to say what is kept.
# https://docs.datadoghq.com/getting_started/tagging/#define-tags
_NOT_KEPT = re.compile(r"[^\w\-:./]")
# Interpolation ends after five minutes and fill reaches at most ten: a late heartbeat makes no hole.
_HOLD = ".fill(last, 600)"


def kept(name: str, value: str) -> str:
    """The tag as Datadog keeps it: lower case, other characters as underscores, cut to 200."""
    return _NOT_KEPT.sub("_", f"{name}:{value}".lower())[:LONGEST].rstrip(":")


def scope(variables: Iterable[str] = (), tags: Mapping[str, str] | None = None) -> str:
    """``$env,task:benchmarks``: the template variables, then the fixed tags."""
    parts = [f"${name}" for name in variables] + [kept(name, value) for name, value in (tags or {}).items()]
    return ",".join(parts) or "*"


def series(space: str, metric: str, within: str, by: Iterable[str] = (), *, hold: bool = False) -> str:
    """``max:metric{scope} by {tags}``. ``hold``: a heartbeat's series, whose last value stands until the next."""
    groups = ",".join(by)
    return f"{space}:{metric}{{{within}}}" + (f" by {{{groups}}}" if groups else "") + (_HOLD if hold else "")
