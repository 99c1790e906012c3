"""Kill -9 at any instant: what was acknowledged is there, nothing is there by half, and nothing is sent twice that
would count twice."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from time import sleep

import pytest

from service.domain.delivery import DeliveryStatus
from service.domain.runs import Mode, Outcome
from tests.integration.store import victim as victim_script
from tests.integration.store.cases import opened

KILLS = 15


@pytest.fixture
def victim(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, victim_script.__file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def live(victim: "subprocess.Popen[str]", lines: int, more: float) -> list[list[str]]:
    """What one daemon acknowledged until it was killed, some time after so many lines."""
    assert victim.stdin
    assert victim.stdout
    victim.stdin.write("live\n")
    said: list[list[str]] = []
    word, pid = victim.stdout.readline().split()
    assert word == "daemon"
    while len(said) < lines:
        said.append(victim.stdout.readline().split())
    sleep(more)  # not to wait for anything: the kill shall come anywhere within a transaction
    os.kill(int(pid), signal.SIGKILL)
    while (line := victim.stdout.readline()) != "dead\n":
        said.append(line.split())
    return said


def statuses(directory: Path) -> dict[int, str]:
    with closing(sqlite3.connect(directory / "state.db")) as connection:
        return dict(connection.execute("SELECT id, status FROM outbox"))


async def test_what_was_acknowledged_survives_a_kill_and_no_distribution_is_sent_twice(
    tmp_path: Path, victim: "subprocess.Popen[str]"
) -> None:
    random = Random(4)
    acknowledged: dict[str, int] = {}
    begun: set[str] = set()
    delivered: set[int] = set()
    sent_once: list[int] = []
    for _ in range(KILLS):
        sending: set[int] = set()
        for word, *rest in live(victim, random.randrange(12), random.choice((0, random.uniform(0, 0.02)))):
            if word == "begun":
                begun.add(rest[0])
            elif word == "ended":
                acknowledged[rest[0]] = int(rest[1])
            elif word == "sending" and rest[0] == "True":
                sending = set(map(int, rest[1:]))
                sent_once += sending
            elif word == "delivered":
                delivered |= set(map(int, rest[1:]))
                sending -= delivered

        async with opened(tmp_path, keep_failed=100_000, keep_ended=100_000) as store:
            runs = {run.id: run for run in await store.runs.list(limit=10_000)}
            counts = await store.outbox.counts(runs)
            slots = await store.runs.slots(Mode.LIVE)
            last, _ = await store.states.read("ci", "last")
        on_disk = statuses(tmp_path)

        assert begun <= runs.keys()
        assert all(run.outcome in (Outcome.COMPLETE, Outcome.INTERRUPTED) for run in runs.values())
        whole = {name: run.samples for name, run in runs.items() if run.outcome is Outcome.COMPLETE}
        assert acknowledged.items() <= whole.items()
        assert {name: sum(counts[name].values()) for name in runs} == dict.fromkeys(runs, 0) | whole
        assert slots == ({"ci": max(run.started for run in runs.values())} if runs else {})
        assert last == (max(whole).encode() if whole else None)
        # The answer may have come between the settlement and its line; never the other way round.
        assert all(on_disk[number] == DeliveryStatus.DELIVERED for number in delivered)
        assert all(on_disk[number] in (DeliveryStatus.UNKNOWN, DeliveryStatus.DELIVERED) for number in sending)
        assert DeliveryStatus.SENDING not in on_disk.values()

    assert len(sent_once) == len(set(sent_once)) > 0
    assert acknowledged
    assert delivered
