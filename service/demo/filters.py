"""The filters of GitHub's run lists, over recorded runs."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from service.demo.recording import Row, parse_time

_EXACT = ("branch", "event", "head_sha", "check_suite_id")
_COLUMN = {"branch": "head_branch"}


class BadFilter(Exception):
    """The filter can't be read: GitHub answers 422."""


def filtered(runs: Iterable[Row], query: Mapping[str, str]) -> list[Row]:
    """The runs that meet every filter of ``query``; ``status`` means the status or the conclusion, as in GitHub's.

    https://docs.github.com/rest/actions/workflow-runs#list-workflow-runs-for-a-repository. Raises BadFilter.
    """
    chosen = list(runs)
    for name in _EXACT:
        if wanted := query.get(name):
            column = _COLUMN.get(name, name)
            chosen = [run for run in chosen if str(run[column]) == wanted]
    if status := query.get("status"):
        chosen = [run for run in chosen if status in (run["status"], run["conclusion"])]
    if created := query.get("created"):
        since, until = _range(created)
        chosen = [run for run in chosen if since <= parse_time(run["created_at"]) < until]
    return chosen


_EVER = parse_time("0001-01-01"), parse_time("9999-12-31")


def _range(text: str) -> tuple[datetime, datetime]:
    """First instant and the one after the last of ``>=T``, ``>T``, ``<=T``, ``<T``, ``A..B`` (``*``: open) and ``T``.

    https://docs.github.com/search-github/getting-started-with-searching-on-github/understanding-the-search-syntax
    """
    first, last = _EVER
    try:
        if ".." in text:
            start, _, end = text.partition("..")
            return (first if start == "*" else parse_time(start)), (last if end == "*" else _after(end))
        if text.startswith(">="):
            return parse_time(text[2:]), last
        if text.startswith("<="):
            return first, _after(text[2:])
        if text.startswith(">"):
            return _after(text[1:]), last
        if text.startswith("<"):
            return first, parse_time(text[1:])
        return parse_time(text), _after(text)
    except ValueError:
        raise BadFilter(text) from None


def _after(text: str) -> datetime:
    """The instant after the date or the second that ``text`` names."""
    return parse_time(text) + (timedelta(seconds=1) if "T" in text else timedelta(days=1))
