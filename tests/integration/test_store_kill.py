"""Kill -9 at any instant: what was acknowledged is there, and nothing is there by half."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import sleep

import pytest

from service.domain.points import Fate
from service.domain.runs import Outcome
from tests.integration import store_victim
from tests.integration.store_cases import NOW, opened

KILLS = 40


@pytest.fixture
def victim(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    root = Path(__file__).parents[2]
    command = [sys.executable, store_victim.__file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def life(victim: "subprocess.Popen[str]", lines: int, more: float) -> list[list[str]]:
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


def fates_on_disk(directory: Path) -> dict[int, Fate]:
    connection = sqlite3.connect(directory / "state.db")
    try:
        return {number: Fate(fate) for number, fate in connection.execute("SELECT id, fate FROM points")}
    finally:
        connection.close()


async def test_what_was_acknowledged_survives_a_kill_and_nothing_is_kept_by_half(
    tmp_path: Path, victim: "subprocess.Popen[str]"
) -> None:
    random = Random(4)
    acknowledged: dict[str, int] = {}
    begun: set[str] = set()
    delivered: set[int] = set()
    uncertain: set[int] = set()
    for _ in range(KILLS):
        said = life(victim, random.randrange(12), random.choice((0, random.uniform(0, 0.02))))
        sending: set[int] = set()
        for word, *rest in said:
            if word == "begun":
                begun.add(rest[0])
            elif word == "ended":
                acknowledged[rest[0]] = int(rest[1])
            elif word == "sending":
                sending = store_victim.numbers(rest)
            elif word == "delivered":
                delivered |= store_victim.numbers(rest)
                sending = set()

        async with opened(tmp_path) as store:
            runs = {run.id: run for run in await store.runs(limit=10_000)}
            fates = await store.fates_of(runs)
            slots = await store.last_slots()
            last = await store.recall("ci", "last")
        on_disk = fates_on_disk(tmp_path)

        assert begun <= runs.keys()
        assert all(run.outcome in (Outcome.COMPLETE, Outcome.INTERRUPTED) for run in runs.values())
        whole = {name: run.samples for name, run in runs.items() if run.outcome is Outcome.COMPLETE}
        assert acknowledged.items() <= whole.items()
        assert {name: sum(fates[name].values()) for name in runs} == dict.fromkeys(runs, 0) | whole
        assert slots == ({"ci": max(run.started for run in runs.values())} if runs else {})
        assert last == (max(whole).encode() if whole else None)
        # The answer may have come between the settlement and its line; never the other way round.
        assert all(on_disk[number] is Fate.DELIVERED for number in delivered)
        assert all(on_disk[number] in (Fate.UNCERTAIN, Fate.DELIVERED) for number in sending)
        assert all(on_disk[number] is Fate.UNCERTAIN for number in uncertain)
        assert Fate.SENDING not in on_disk.values()
        uncertain |= {number for number in sending if on_disk[number] is Fate.UNCERTAIN}

    assert acknowledged
    assert delivered
    async with opened(tmp_path) as store:
        lost = await store.lost("ci", NOW)
    assert lost == {Fate.UNCERTAIN: sum(fate is Fate.UNCERTAIN for fate in fates_on_disk(tmp_path).values())}
