"""Crontab lines (https://man7.org/linux/man-pages/man5/crontab.5.html), a user's or those of /etc/cron.d."""

import re
from collections.abc import Iterable

from service.migration.workload import Workload

_FIELD = r"[0-9A-Za-z*?/,\-]+"
_LINE = re.compile(rf"\s*(@\w+(?:\s+[0-9]\S*)?|{_FIELD}(?:\s+{_FIELD}){{4}})\s+(\S.*)", re.DOTALL)
# What is no schedule may be meant as one (0~30, H, @reboot): it is read, so that it is told and not lost.
_ANY = re.compile(r"\s*(@\S+(?:\s+[0-9]\S*)?|(?:CRON_TZ=|TZ=)?\S+(?:\s+\S+){4})\s+(\S.*)", re.DOTALL)
_ZONE = re.compile(r"\s*(?:CRON_)?TZ=(\S+)\s+(?=[@\d*])")
_VARIABLE = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.*?)\s*$")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_OWN = ("SHELL", "PATH", "MAILTO", "MAILFROM", "HOME", "LOGNAME", "CRON_TZ", "TZ", "RANDOM_DELAY")


def is_line(text: str) -> bool:
    """Whether ``text`` looks like a schedule and a command."""
    match = _LINE.fullmatch(_ZONE.sub("", text.strip()))
    return bool(match) and bool(re.match(r"@|.*[\d*]", match[1].split()[0])) if match else False


def workloads(text: str, origin: str) -> list[Workload]:
    """Every line that is a schedule and a command; variables hold for the lines below them."""
    variables: dict[str, str] = {}
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        zoned = _ZONE.match(line)
        line = line[zoned.end() :] if zoned else line
        variable = _VARIABLE.fullmatch(line)
        if variable:
            value = variable[2]
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            variables[variable[1]] = value[1:-1] if quoted else value
        elif match := _LINE.fullmatch(line) or _ANY.fullmatch(line):
            own = {**variables, "CRON_TZ": zoned[1]} if zoned else variables
            found.append(_workload(match[1], match[2], own, origin, number))
    return found


def _workload(schedule: str, command: str, variables: dict[str, str], origin: str, number: int) -> Workload:
    notes = []
    # Everything after the first % that is not escaped is standard input.
    command, *given = re.split(r"(?<!\\)%", command, maxsplit=1)
    if given:
        notes.append("the command got input after a %")
    zone = variables.get("CRON_TZ")
    if zone is None:
        notes.append("a crontab runs in its machine's time zone, which the line does not say: UTC is taken")
    written, refused = schedule_of(schedule)
    return Workload(
        name=f"line-{number}",
        kind="crontab line",
        origin=origin,
        command=[command.replace("\\%", "%").strip()],
        schedule=written,
        time_zone=zone,
        # cron starts a line whether its last run has ended or not, once, and never later.
        concurrency_policy="Allow",
        backoff_limit="0",
        starting_deadline="60",
        environment=[{"name": name, "value": value} for name, value in variables.items() if name not in _OWN],
        notes=notes,
        refused=refused,
    )


def schedule_of(schedule: str) -> tuple[str, str]:
    """The schedule as a CronJob would need it, and why it can't be said the same way there."""
    if schedule.startswith("@"):
        return schedule, ""
    fields = schedule.split()
    days, weekdays = fields[2], fields[4]
    try:
        fields[4] = ",".join(_weekdays(part) for part in weekdays.split(","))
    except ValueError:
        return schedule, ""  # a step that is no number: refused as every wrong schedule is
    stars = [field for field in (days, weekdays) if field.startswith("*")]
    if len(stars) == 1 and any(re.fullmatch(r"\*/(?!1$)\d+", field) for field in stars):
        return " ".join(fields), (
            f'"{schedule}": cron wants both the day of the month and the weekday to match here, Kubernetes one of them'
        )
    return " ".join(fields), ""


def _weekdays(part: str) -> str:
    """``part`` without 7, which Kubernetes does not know for Sunday."""
    body, _, step = part.partition("/")
    first, _, last = body.partition("-")
    if last in ("7", "sun", "SUN", "Sun") and first not in ("7", "*"):
        start = _DAYS.index(first[:3].lower()) if first[:3].lower() in _DAYS else int(first) if first.isdigit() else 0
        return ",".join(str(day % 7) for day in _stepped(start, 7, int(step or 1)))
    if first == "7":
        return "0"
    return part


def _stepped(first: int, last: int, step: int) -> Iterable[int]:
    return range(first, last + 1, max(1, step))
