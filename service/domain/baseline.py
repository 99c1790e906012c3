"""Checks against their own past: conditions such as ``>= 0.85x``, and failures that count only several in a row.

The values that are compared with are a part of the check: so they outlive restarts, and every replica has them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import median

from service.domain import conditions
from service.domain.checks import Check, CheckKey, Past, measure
from service.domain.samples import Rule, Sample, Status, format_number

MIN_VALUES = 5  # of fewer a median says little

Values = tuple[tuple[datetime, float], ...]


def judge_samples(
    known: Iterable[Check], samples: Sequence[Sample], now: datetime, *, is_cycle: bool = True
) -> tuple[list[Sample], list[Check]]:
    """``samples``, those with a rule with the verdict as their status; and what each of these makes of its check.

    ``known``: the checks before the run. ``is_cycle``: it was no run by webhook, of which many may come in a minute;
    the values of one are judged, but count for none that comes after.
    """
    latest = {check.key: check for check in known}
    measured = [(sample, sample.rule, check) for sample in samples if sample.rule and (check := measure(sample, now))]
    at_once = defaultdict[tuple[CheckKey, datetime], set[float]](set)
    for sample, _, check in measured:
        at_once[check.key, sample.measured].add(sample.value)
    changed, judged = dict[int, Sample](), list[Check]()
    for sample, rule, check in sorted(measured, key=lambda each: each[0].measured):
        before = latest.get(check.key)
        if (count := len(at_once[check.key, sample.measured])) > 1:
            summary = f"{count} values of one instant can't be compared with its past: give each a check of its own"
            past = replace((before and before.past) or Past(), limit="")
            verdict = replace(check, status=Status.UNKNOWN, summary=summary, past=past)
        else:
            verdict = _judge(check, rule, sample.value, sample.measured, before, is_cycle=is_cycle)
        latest[check.key] = verdict
        judged.append(verdict)
        if "status" in sample.tags:  # an acceptance criterion's samples are sent as they are
            changed[id(sample)] = replace(sample, tags={**sample.tags, "status": verdict.status.value})
    return [changed.get(id(sample), sample) for sample in samples], judged


def _judge(check: Check, rule: Rule, value: float, at: datetime, before: Check | None, *, is_cycle: bool) -> Check:
    """``check`` by its rule, after ``before``."""
    limit, comparison = check.condition, ""
    kept: Values = ()
    if conditions.is_relative(check.condition):
        values = before.past.values if before and before.past else ()
        earlier, kept = _add_value(values, at, value, rule)
        kept = kept if is_cycle else values
        limit, comparison = _find_limit(check.condition, rule, earlier, value)
    condition, failures = conditions.parse(limit), _count_failures(before, at)
    status = condition.status(value) if condition else Status.UNKNOWN
    row, in_a_row = "", failures + is_cycle
    if status is Status.FAIL and in_a_row < rule.fail_after > 1:
        row = f"{in_a_row} of {rule.fail_after} failures in a row that fail the check"
        status = Status.PASS
    elif status is Status.FAIL and in_a_row > 1:
        row = f"{in_a_row} failures in a row"
    summary = "; ".join(filter(None, (comparison, row, check.summary)))
    past = Past(kept, limit if condition else "", failures, is_cycle)
    return replace(check, status=status, summary=summary, past=past)


def _add_value(values: Values, at: datetime, value: float, rule: Rule) -> tuple[Values, Values]:
    """Those of ``values`` that count as earlier, and what is kept of all with the one of ``at``, in their order."""
    last = values[-1][0] if values else None
    if last is None or (last < at and at - last >= rule.apart):
        earlier, kept = values, (*values, (at, value))
    else:
        earlier = tuple(each for each in values if each[0] < at and at - each[0] >= rule.apart)
        known = dict(values)
        if at in known or all(abs(at - other) >= rule.apart for other in known):
            known[at] = value
        kept = tuple(sorted(known.items()))
    return earlier, kept[-(rule.last + rule.skip + 1) :]


def _find_limit(condition: str, rule: Rule, earlier: Values, value: float) -> tuple[str, str]:
    """A relative condition in numbers, empty where the ``earlier`` values make none; and what it is made of."""
    counted = [each for _, each in earlier[: max(0, len(earlier) - rule.skip)][-rule.last :]]
    if len(counted) < MIN_VALUES:
        return "", f"{len(counted)} earlier values to compare {format_number(value)} with, a median takes {MIN_VALUES}"
    middle = median(counted)
    skipped = f" before the newest {rule.skip}" if rule.skip else ""
    comparison = (
        f"{format_number(value)} against a median of {format_number(middle)} of the last {len(counted)} values{skipped}"
    )
    if middle <= 0:
        return "", f"{comparison}: a factor takes one above 0"
    limit = conditions.resolve(condition, middle)
    return (limit, comparison) if conditions.parse(limit) else ("", f"{comparison}: out of range")


def _count_failures(before: Check | None, at: datetime) -> int:
    """How many values in a row before the one of ``at`` have failed."""
    if not (before and before.past and before.measured_at) or at < before.measured_at:
        return 0
    if at == before.measured_at or not before.past.is_counted:  # the same one again, or it is none of the row
        return before.past.failures
    condition = conditions.parse(before.limit)
    has_failed = condition and before.value is not None and condition.status(before.value) is Status.FAIL
    return before.past.failures + 1 if has_failed else 0
