"""The verdict on each pair of values, and the report of all of them as data, table and Markdown. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from service.comparison import replaced
from service.comparison.replaced import Cause, Facts
from service.comparison.values import Pair, alike

# Of the daemon alone: nobody else ever sent them.
OURS = ("metta.infra.check.", "metta.infra.collector.")
_MOST_SUMMED = 10_000
_USUAL = timedelta(minutes=10)
_SOON = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``causes``: what explains the difference, empty where there is none, or nothing explains it (``is_open``).

    ``hint``: what else is known.
    """

    pair: Pair
    causes: tuple[Cause, ...] = ()
    is_open: bool = False
    hint: str = ""

    @property
    def text(self) -> str:
        if self.pair.is_same:
            return "same"
        said = "; ".join(self.causes) if self.causes else "UNEXPLAINED"
        return f"{said} ({self.hint})" if self.hint else said

    def as_json(self) -> dict[str, Any]:
        theirs, ours = self.pair.theirs, self.pair.ours
        return {
            "metric": self.pair.metric,
            "about": self.pair.about,
            "theirs": theirs.value if theirs else None,
            "ours": ours.value if ours else None,
            "their_time": theirs.at.isoformat() if theirs and theirs.at else None,
            "our_time": ours.at.isoformat() if ours and ours.at else None,
            "verdict": "same" if self.pair.is_same else "explained" if self.causes else "unexplained",
            "causes": list(self.causes),
            "hint": self.hint,
        }


def judge(
    pairs: Iterable[Pair],
    facts: Mapping[str, Facts],
    unmeasured: set[str],
    faults: Mapping[str, str],
    intervals: Mapping[str, timedelta],
    *,
    is_summed: bool,
) -> list[Verdict]:
    """``facts``: by repository, "" for the only one. ``unmeasured``: metrics that our run had nothing to measure for.

    ``faults``: what our runs left out, by metric. ``intervals``: of each collector; values further apart are of
    different cycles, and not to be compared.
    ``is_summed``: theirs come from Datadog, which may have added counts up.
    """
    return [_judge(pair, facts, unmeasured, faults, intervals, is_summed=is_summed) for pair in pairs]


def _judge(
    pair: Pair,
    facts: Mapping[str, Facts],
    unmeasured: set[str],
    faults: Mapping[str, str],
    intervals: Mapping[str, timedelta],
    *,
    is_summed: bool,
) -> Verdict:
    theirs, ours = pair.theirs, pair.ours
    if pair.is_same:
        return Verdict(pair)
    if theirs is None:
        return Verdict(pair, (Cause.NOT_THEIRS if pair.metric in replaced.KNOWN else Cause.NEW,))
    known = facts.get(theirs.tags.get("repo", ""), next(iter(facts.values()), None) if len(facts) == 1 else None)
    found = replaced.causes(pair.metric, theirs.value, replace(known, their_now=theirs.at)) if known else []
    if ours is None:
        if pair.metric in unmeasured:
            return Verdict(pair, (Cause.MADE_UP,))
        if pair.metric in faults:
            return Verdict(pair, (Cause.LEFT_OUT,), hint=faults[pair.metric])
        return Verdict(pair, is_open=True, hint="we have no such value: is its collector configured, did it run?")
    if found:
        return Verdict(pair, tuple(found))
    if is_summed and _times(theirs.value, ours.value) and pair.metric.removeprefix(replaced.NAMESPACE) in _TOTALS:
        return Verdict(pair, (Cause.SUMMED,), hint=f"{theirs.value / ours.value:.0f} times ours")
    if pair.apart is not None and pair.apart > intervals.get(ours.collector, _USUAL):
        # No run of ours is near theirs: that explains nothing, it makes the comparison worthless.
        return Verdict(
            pair, is_open=True, hint=f"measured {_minutes(pair.apart)} apart; compare what is nearer in time"
        )
    if pair.metric not in replaced.KNOWN:
        return Verdict(pair, is_open=True)
    if known is None:
        maybe = " or ".join(replaced.possible(pair.metric))
        return Verdict(pair, is_open=True, hint=f"our runs of that time are not known any more; it may be {maybe}")
    missing = known.workflows is None or not known.pulls
    if missing:
        return Verdict(pair, is_open=True, hint="GitHub could not be asked again")
    if theirs.at and ours.at and theirs.at - ours.at > _SOON:
        hint = f"theirs is {_minutes(theirs.at - ours.at)} younger: compare again after our next run, which knows more"
        return Verdict(pair, is_open=True, hint=hint)
    return Verdict(pair, is_open=True)


# What the replaced system sent as counts.
_TOTALS = {
    "ci.workflow.other_failing",
    "ci.workflow.flaky_tests",
    "ci.workflow.cancelled",
    "github.hotfix.count",
    "github.force_merge.count",
    "github.reverts.count",
}


def _times(theirs: float, ours: float) -> bool:
    if ours <= 0 or theirs <= ours:
        return False
    times = theirs / ours
    return alike(times, round(times)) and times <= _MOST_SUMMED


def rows(verdicts: Sequence[Verdict]) -> list[tuple[str, str, str, str, str]]:
    """Metric, check, theirs, ours, why: differences that are open first."""
    ordered = sorted(verdicts, key=lambda each: (not each.is_open, each.pair.is_same, each.pair.metric))
    return [
        (
            each.pair.metric,
            each.pair.about,
            _number(each.pair.theirs.value if each.pair.theirs else None),
            _number(each.pair.ours.value if each.pair.ours else None),
            each.text,
        )
        for each in ordered
    ]


HEADS = ("metric", "check", "CronJobs", "infra-health", "why")


def summary(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {
        "same": sum(each.pair.is_same for each in verdicts),
        "explained": sum(bool(each.causes) for each in verdicts),
        "unexplained": sum(each.is_open for each in verdicts),
    }


def markdown(verdicts: Sequence[Verdict], notes: Sequence[str]) -> str:
    counts = summary(verdicts)
    lines = [
        "## CronJobs and infra-health",
        "",
        ", ".join(f"{number} {name}" for name, number in counts.items()),
        "",
        f"| {' | '.join(HEADS)} |",
        "| --- | --- | ---: | ---: | --- |",
        *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows(verdicts)),
    ]
    lines += ["", *(f"- {_cell(note)}" for note in notes)] if notes else []
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _minutes(span: timedelta) -> str:
    minutes = span.total_seconds() / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
