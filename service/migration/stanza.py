"""One collector's stanza of config.yaml, from what a workload says: schedule, policies, service."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from service.config import CollectorSettings
from service.migration import command as commands
from service.migration.texts import is_template
from service.migration.workload import Workload

# What the replaced system's collectors are here, and the Datadog service of each one's CronJob.
REPLACED: Mapping[str, tuple[Mapping[str, str], str]] = {
    "ci": ({"type": "github_ci"}, "dashboard-collector"),
    "training": ({"type": "snapshot", "category": "training"}, "training-health-collector"),
    "eval": ({"type": "snapshot", "category": "evaluation"}, "eval-health-collector"),
}

_SAID = {
    "concurrency_policy": "concurrencyPolicy",
    "backoff_limit": "backoffLimit",
    "successful_history": "successfulJobsHistoryLimit",
    "failed_history": "failedJobsHistoryLimit",
}

RENDER = "`helmfile template | infra-health migrate -`"

_POLICIES = {"allow": "Allow", "forbid": "Forbid", "replace": "Replace"}

# How the shipped configuration reads, where a source leaves it to its chart.
_OURS = {
    "concurrency_policy": "Forbid",
    "backoff_limit": "3",
    "successful_history": "those of `store`",
    "failed_history": "those of `store`",
}

Environment = Mapping[str, Mapping[str, Any]]

Types = Mapping[str, type[CollectorSettings]]


@dataclass(slots=True)
class Stanza:
    """One collector of config.yaml. ``why_not``: why it can't be one as it stands; it is written as a comment then."""

    name: str
    source: Workload
    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    why_not: str = ""


def stanza_of(
    name: str, workload: Workload, call: commands.Call, environment: Environment, types: Types, together: int
) -> Stanza:
    values, service = REPLACED.get(name, ({"type": name}, "infra-health"))
    stanza = Stanza(name, workload, dict(values), list(workload.notes))
    if is_template(name):
        stanza.why_not = f"only the template knows what it collects; {RENDER} does, too"
        return stanza
    values, notes = stanza.values, stanza.notes
    if not workload.schedule:
        stanza.why_not = "the source does not say its schedule"
    else:
        _read_schedule(workload, stanza)
    said = plain(environment, "DD_SERVICE")
    written = environment.get("DD_SERVICE")
    if said is None and written:
        notes.append(
            f"DD_SERVICE: {written.get('value', 'its source')} is not known here; {service} was put in its place"
        )
    elif said is None:
        notes.append(f"DD_SERVICE is not said in the source; {service} is what the replaced system had")
    values["service"] = said or service
    if workload.suspend == "true":
        values["enabled"] = False
        notes.append("suspend: true")
    elif workload.suspend not in (None, "false"):
        notes.append(f"suspend: {workload.suspend} could not be read")
    _read_policies(workload, stanza)
    if together > 1:
        notes.append(f"ran in one {workload.kind} with {', '.join(each for each in call.names if each != name)}")
    if line := commands.line(workload.command):
        notes.append(f"ran: {line}")
    if extra := [option for option in call.options if option not in ("--push",)]:
        notes.append(f"the command also had {' '.join(extra)}")
    return stanza


def _read_schedule(workload: Workload, stanza: Stanza) -> None:
    schedule, zone = workload.schedule or "", workload.time_zone
    # Kubernetes took this for a while, though it was never documented.
    if match := re.fullmatch(r"(?:CRON_)?TZ=(\S+)\s+(.*)", schedule):
        stanza.notes.append(f"the schedule was {schedule}")
        zone, schedule = zone or match[1], match[2]
    stanza.values["schedule"] = schedule
    if zone and zone != "UTC":
        stanza.values["time_zone"] = zone
    if is_template(schedule) or is_template(zone):
        what = "the schedule" if is_template(schedule) else "the time zone"
        stanza.why_not = f"only the template knows {what}; {RENDER} does, too"
    if workload.refused:
        stanza.why_not = workload.refused


def _read_policies(workload: Workload, stanza: Stanza) -> None:
    values, notes = stanza.values, stanza.notes
    policy = workload.concurrency_policy
    texts = {
        "concurrency_policy": _POLICIES.get(policy.lower(), policy) if policy else None,
        "starting_deadline": workload.starting_deadline and f"{workload.starting_deadline}s",
        "active_deadline": workload.active_deadline and f"{workload.active_deadline}s",
        "backoff_limit": workload.backoff_limit,
        "successful_runs_history_limit": workload.successful_history,
        "failed_runs_history_limit": workload.failed_history,
    }
    for key, value in texts.items():
        if is_template(value):
            notes.append(f"{key}: {value} is known to the template alone")
        elif value is not None:
            values[key] = int(value) if value.isdecimal() and value.isascii() and len(value) < 10 else value
    if workload.active_deadline is None:
        notes.append("no activeDeadlineSeconds: here a run ends after active_deadline, 5m where nothing else is set")
    if workload.kind == "release":
        open_ones = [f"{said} (here {_OURS[key]})" for key, said in _SAID.items() if getattr(workload, key) is None]
        if open_ones:
            notes.append(f"left to the chart: {', '.join(open_ones)}; {RENDER} knows them")


def name_apart(stanzas: Sequence[Stanza]) -> None:
    """Two CronJobs of one collector (two repositories) become two stanzas: the later ones by their source's name."""
    taken: set[str] = set()
    for stanza in stanzas:
        name, number = stanza.name.lower(), 2
        if name in taken:
            own = re.sub(r"[^a-z0-9-]+", "-", stanza.source.name.lower()).strip("-")
            name = f"{name}-{own}"[:48].rstrip("-")
        while name in taken:
            name, number = f"{name[:48]}-{number}", number + 1
        taken.add(name)
        stanza.name = name


def check(stanza: Stanza, types: Types) -> None:
    """A stanza that ``infra-health check`` would refuse is none."""
    if stanza.why_not:
        return
    cls = types.get(str(stanza.values["type"]), CollectorSettings)
    try:
        cls.model_validate(stanza.values)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
        stanza.why_not = "; ".join(told)


def plain(environment: Environment, name: str) -> str | None:
    value = environment.get(name, {}).get("value")
    return value if isinstance(value, str) and value and not is_template(value) else None
