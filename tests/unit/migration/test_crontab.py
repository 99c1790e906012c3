"""Lines of a crontab: what Kubernetes would do alike, and what not."""

import pytest

from service.collectors import registry
from service.migration import crontab
from service.migration.plan import plan

TYPES = {name: kind.Settings for name, kind in registry.installed().items()}
COMMAND = "python -m devops.datadog.cli collect eval --push"


@pytest.mark.parametrize(
    ("schedule", "carried"),
    [
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 5,6,0"),
        ("0 0 * * mon-sun", "0 0 * * 1,2,3,4,5,6,0"),
        ("@hourly", "@hourly"),
        ("*/10 * * * *\tdeploy", "*/10 * * * *"),
    ],
)
def test_what_comes_over(schedule: str, carried: str) -> None:
    (stanza,) = plan(crontab.workloads(f"{schedule} {COMMAND}", "crontab"), TYPES).stanzas
    assert (stanza.values["schedule"], stanza.why_not) == (carried, "")


@pytest.mark.parametrize(
    "schedule", ["@reboot", "0~30 * * * *", "H * * * *", "0 0 */2 * 1-5", "60 * * * *", "* * * * a/x"]
)
def test_what_would_fire_otherwise_is_told_and_not_carried_over(schedule: str) -> None:
    (stanza,) = plan(crontab.workloads(f"{schedule} {COMMAND}", "crontab"), TYPES).stanzas
    assert stanza.why_not


def test_what_the_shell_does_around_it_is_kept_as_a_note_without_secrets() -> None:
    line = f"0 * * * * DD_API_KEY=0123 TRAINING=1 timeout 300 {COMMAND} >> /var/log/eval.log"
    (stanza,) = plan(crontab.workloads(line, "crontab"), TYPES).stanzas
    assert f"ran: DD_API_KEY=******** TRAINING=1 timeout 300 {COMMAND} >> /var/log/eval.log" in stanza.notes


def test_the_zone_of_a_line_is_its_own() -> None:
    first, second = crontab.workloads(f"CRON_TZ=Europe/Paris 0 5 * * * {COMMAND}\n0 6 * * * {COMMAND}", "crontab")
    assert (first.time_zone, second.time_zone) == ("Europe/Paris", None)
