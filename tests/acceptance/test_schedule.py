"""``schedule`` and ``backup`` as a user types them."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import Place, place


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        yield it


def test_an_expression_shows_local_and_utc_time_and_what_daylight_saving_repeats(here: Place) -> None:
    """It needs no configuration."""
    (here.folder / "config.yaml").unlink()
    expression = (
        "schedule",
        "30 1 * * *",
        "--time-zone",
        "America/New_York",
        "--at",
        "2025-11-01T12:00",
        "--count",
        "2",
    )
    told = here.run(*expression)
    assert told.returncode == 0, told.stderr
    assert "2025-11-02T01:30:00-04:00  2025-11-02T05:30:00Z  the clock shows this time twice: first time" in told.stdout
    assert told.stdout.splitlines()[1].split() == ["local", "UTC", "note"], "columns that a pipe can name"
    (answer,) = json.loads(here.run(*expression, "--json").stdout)
    assert [(fire["utc"], fire["repeated"]) for fire in answer["fires"]] == [
        ("2025-11-02T05:30:00Z", 1),
        ("2025-11-02T06:30:00Z", 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("7 7 7 7 8",), "8 is not within 0 to 6"),
        (("trainin",), "did you mean training?"),
        (("* * * * *", "--time-zone", "Europe/Berlim"), "did you mean Europe/Berlin?"),
        (("* * * * *", "--at", "tomorrow"), "is no time"),
    ],
)
def test_what_can_not_be_understood_is_a_matter_of_usage(here: Place, arguments: tuple[str, ...], told: str) -> None:
    answer = here.run("schedule", *arguments)
    assert answer.returncode == 2
    assert told in answer.stderr


def test_a_collectors_schedule_marks_runs_that_usually_last_longer(here: Place) -> None:
    assert here.run("--once", "--only", "training").returncode == 0
    with sqlite3.connect(here.state_dir / "state.db") as connection:
        connection.execute("UPDATE runs SET ended = started + 2 * 3600 * 1000000")
    (answer,) = json.loads(here.run("schedule", "training", "--count", "2", "--json").stdout)
    assert answer["usual_seconds"] == 7200
    first, second = answer["fires"]
    assert (first["overlaps"], second["overlaps"]) == (False, True)
    assert second["notes"] == ["the run before usually lasts longer: it waits for that run's end (Forbid)"]


def test_a_backup_beside_a_daemon_is_a_whole_store(here: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with here.daemon() as daemon:
        runs = daemon.wait_until_quiet()
        told = here.run("backup", str(copy))
        assert told.returncode == 0, told.stderr
        assert daemon.get("/readyz")
    with sqlite3.connect(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (len(runs),)


def test_a_backup_of_nothing_and_one_to_nowhere_say_what_is_wrong(here: Place, tmp_path: Path) -> None:
    assert "nothing to back up" in here.run("backup", str(tmp_path / "copy.db")).stderr
    assert here.run("--once", "--only", "training").returncode == 0
    told = here.run("backup", str(tmp_path / "no" / "copy.db"))
    assert (told.returncode, "can't be used" in told.stderr) == (78, True)
