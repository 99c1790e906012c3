"""The setting ``expect``: which checks a snapshot, or a program's output, has to bring, and which are missing. Pure.

A name, ``workflow_name/task/check``, stands for one check: where it is not brought that check is unknown at once. A
shell's pattern stands for at least one. Both are compared with the joined text, so that ``*`` goes beyond a slash.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from service.collectors.records import Origin
from service.domain.checks import CheckKey
from service.domain.runs import NoData, PartialFailure
from service.domain.samples import CHECK_TAGS

Brought = Mapping[str, Collection[CheckKey]]  # the checks by their joined names
Seen = dict[str, tuple[CheckKey, ...]]  # what was expected and brought once; of a name, as which checks


def _is_pattern(entry: str) -> bool:
    return re.search(r"[*?[]", entry) is not None


def _check_shape(entry: str) -> str:
    parts = entry.split("/")
    if not entry or (not _is_pattern(entry) and (len(parts) != 3 or not all(map(str.strip, parts)))):
        raise ValueError(
            f'must be workflow_name/task/check, or a pattern such as "nightly/*" (also where a name holds a /),'
            f' not "{entry}"'
        )
    return entry


Entry = Annotated[str, AfterValidator(_check_shape)]


class Verdict(NamedTuple):
    """``no_data``: the named checks that are missing. ``failures``: the patterns without a match. ``seen``: for the
    next run."""

    no_data: list[NoData]
    failures: list[PartialFailure]
    seen: Seen


def find_missing(
    expected: Sequence[str], brought: Brought, seen: Seen, origin: Origin, what: str, *, is_whole: bool = True
) -> Verdict:
    """``seen``: of the run before. ``what`` brought it: "snapshot". Unless it ``is_whole`` (a push may bring the checks
    of one pipeline of several), it says nothing of what was seen before under a workflow_name that it does not bring.
    """
    workflows = {name.partition("/")[0] for name in brought}
    found = Verdict([], [], {})
    for entry in dict.fromkeys(expected):
        is_pattern, workflow = _is_pattern(entry), entry.partition("/")[0]
        if entry in brought or (is_pattern and any(fnmatchcase(name, entry) for name in brought)):
            found.seen[entry] = () if is_pattern else tuple(sorted(brought[entry]))
            continue
        if entry in seen:
            found.seen[entry] = seen[entry]
            if not is_whole and not any(fnmatchcase(each, workflow) for each in workflows):
                continue
        if is_pattern:
            found.failures.append(PartialFailure(f"the {what} has no check of such a name", f'expect "{entry}"'))
            continue
        since = f"the last {what} has no check" if entry in seen else f"no {what} so far has had a check"
        names = dict(zip(CHECK_TAGS, (origin.category, *entry.split("/")), strict=True))
        keys = seen.get(entry) or ((("source", origin.source), *names.items()),)
        found.no_data.extend(NoData(dict(key), f"{since} of this name") for key in keys)
    return found
