"""Three daemons on one PostgreSQL while processes die, stand still, and the server comes and goes.

Minutes long, so ``make trial`` runs it, not ``make test``. What holds whatever happens: no slot completes twice, no two
runs of a collector overlap, no value of a distribution arrives twice, and every sample on record arrived or is
accounted for.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from service.domain.delivery import DeliveryStatus
from service.domain.samples import Kind
from service.store.chunks import unpack
from tests.acceptance.program import Place, place, wait_for
from tests.postgres import Postgres, find_free_port, running_postgres

pytestmark = [pytest.mark.trial, pytest.mark.timeout(240)]

DEAD_AFTER = 2.0
REPLICAS = range(3)
# A value that no other run has, so that one that arrives twice is seen.
PROGRAM = """
now=$(date +%s%N | cut -c5-)
tags='"tags": {"collector": "'$0'"}'
echo '[{"metric": "trial.value", "kind": "distribution", "value": '$now'},'
echo '{"metric": "trial.gauge", "value": '$now', '$tags'},'
echo '{"metric": "trial.runs", "kind": "count", "value": 1, '$tags'}]'
sleep 0.3
"""


class Cluster:
    """Daemons that share ``server``; ``url``: how they reach it."""

    def __init__(self, here: Place, server: Postgres, url: str) -> None:
        self.server = server
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._here, self._url = here, url
        self._ports = [find_free_port() for _ in REPLICAS]

    def start(self, number: int) -> None:
        port = str(self._ports[number])
        own = {"HOSTNAME": f"pod-{number}", "INFRA_HEALTH_HTTP__PORT": port, "INFRA_HEALTH_STORE__URL": self._url}
        with (self._here.folder / f"{number}.log").open("a") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=self._here.folder, env=self._here.whole_environ(own), stderr=log
            )

    def wait_until_ready(self) -> None:
        def is_ready(number: int) -> bool:
            told = (self._here.folder / f"{number}.log").read_text()
            assert self.processes[number].poll() is None, told[-3000:]
            with suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{self._ports[number]}/readyz", trust_env=False).is_success
            return False

        wait_for(lambda: all(map(is_ready, REPLICAS)))

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

    def wait_for_more_runs(self, more: int = 8) -> None:
        """Until so many more are complete."""
        start, complete = time.monotonic(), "SELECT 1 FROM runs WHERE outcome = 'Complete'"
        before = len(self.server.execute(complete))
        wait_for(lambda: len(self.server.execute(complete)) >= before + more)
        print(f"{more} more runs after {time.monotonic() - start:.1f} s")

    def end(self) -> None:
        """Stops the schedule; then no run is active and nothing pending any more, and all leave as in a roll-out."""
        pause = 'INSERT INTO pauses SELECT DISTINCT collector, 0, \'{"source": "trial"}\' FROM runs'
        active = "SELECT 1 FROM runs WHERE outcome IS NULL"
        left = "SELECT 1 FROM outbox WHERE status IN ('pending', 'sending')"
        self.server.execute(pause)
        wait_for(lambda: not self.server.execute(f"{active} UNION ALL {left}"))
        for process in self.processes.values():
            process.terminate()
        assert [process.wait(timeout=60) for process in self.processes.values()] == [0, 0, 0]

    def check(self) -> None:
        """What holds whatever happened."""
        twice = "SELECT collector, slot FROM runs WHERE {} GROUP BY collector, slot HAVING count(*) > 1"
        for once in ("cause <> 'retry'", "outcome = 'Complete'"):
            assert not self.server.execute(twice.format(once)), f"a slot has two runs with {once}"
        # In microseconds; a claim may wait for the end of the run before it to be on record.
        next_start = "lead(started) OVER (PARTITION BY collector ORDER BY started)"
        spans = f"SELECT ended, {next_start} AS next FROM runs"
        assert not self.server.execute(f"SELECT 1 FROM ({spans}) AS spans WHERE ended > next + 1000000"), "runs overlap"

        points = [point for point in self._here.intake.points if point.metric.startswith("trial.")]
        received = Counter(point.value for point in points if point.kind == "distribution")
        assert set(received.values()) == {1}, "values of a distribution arrived twice"
        # Of a series and second there is one gauge, the last.
        gauges = {(point.at, *point.tags) for point in points if point.metric == "trial.gauge"}
        seen = Counter[object]()
        for kind, status, body in self.server.execute("SELECT kind, status, body FROM outbox WHERE run <> ''"):
            for point in unpack(bytes(body)):  # type: ignore[call-overload]
                seen[status] += 1
                if status == DeliveryStatus.DELIVERED and kind == Kind.DISTRIBUTION:
                    assert point.value in received, "a value that is called delivered did not arrive"
                elif point.metric == "trial.gauge":
                    assert status == DeliveryStatus.DELIVERED
                    assert (point.at, *point.tags) in gauges
        assert seen.keys() <= {DeliveryStatus.DELIVERED, DeliveryStatus.UNKNOWN}, seen
        assert seen[DeliveryStatus.DELIVERED] > 100
        print(f"{len(received)} values of distributions, samples by status: {dict(seen)}")


@contextmanager
def cluster_on(server: Postgres, folder: Path, url: str = "") -> Iterator[Cluster]:
    """``url``: of a pool before the server."""
    with place(folder) as here:
        each = {"type": "exec", "schedule": "@every 2s"}
        names = [f"c{number}" for number in range(8)]
        here.config["collectors"] = {name: {**each, "command": ["/bin/sh", "-c", PROGRAM, name]} for name in names}
        limits = {"keep_ended": 10_000, "keep_failed": 10_000}
        here.config["store"] = {"dead_after": f"{DEAD_AFTER:g}s", "pooled": bool(url), **limits}
        here.write_config()
        cluster = Cluster(here, server, url or server.url)
        try:
            for number in REPLICAS:
                cluster.start(number)
            cluster.wait_until_ready()
            cluster.wait_for_more_runs()
            yield cluster
            cluster.end()
            cluster.check()
        finally:
            for number in cluster.processes:
                cluster.kill(number)


@pytest.fixture
def server() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


def test_processes_that_are_killed_every_two_seconds_and_then_stand_still(server: Postgres, tmp_path: Path) -> None:
    chance = random.Random(18)
    with cluster_on(server, tmp_path) as cluster:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            number = chance.choice(REPLICAS)
            cluster.kill(number)
            cluster.start(number)
            time.sleep(2.0)
        cluster.wait_until_ready()
        cluster.kill(0)  # while others are well, so it is known to be dead before long
        wait_for(lambda: not server.execute("SELECT 1 FROM replicas WHERE name = 'pod-0'"), seconds=DEAD_AFTER + 5)
        cluster.start(0)
        cluster.wait_until_ready()
        for _ in range(8):
            process = cluster.processes[chance.choice(REPLICAS)]
            time.sleep(chance.uniform(0.1, 1.0))
            process.send_signal(signal.SIGSTOP)
            time.sleep(chance.choice((0.5, DEAD_AFTER + 2)))
            process.send_signal(signal.SIGCONT)
        cluster.wait_for_more_runs()


def test_a_server_that_comes_and_goes(server: Postgres, tmp_path: Path) -> None:
    """Stopped, frozen, read-only, and with all its connections cut."""
    with cluster_on(server, tmp_path) as cluster:
        server.stop()
        time.sleep(5)
        cluster.wait_until_ready()  # a database that is away takes no replica out of its service
        server.start()
        cluster.wait_for_more_runs(1)
        server.send(signal.SIGSTOP)
        time.sleep(15)
        server.send(signal.SIGCONT)
        cluster.wait_for_more_runs(1)
        read_only, reload = "ALTER SYSTEM SET default_transaction_read_only = {}", "SELECT pg_reload_conf()"
        server.execute(read_only.format("on"), reload)
        time.sleep(5)
        server.execute("SET default_transaction_read_only = off", read_only.format("off"), reload)
        cluster.wait_for_more_runs(1)
        is_daemons = "usename = 'test' AND pid <> pg_backend_pid()"
        for _ in range(5):
            server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {is_daemons}")
            time.sleep(0.5)
        cluster.wait_for_more_runs()


def test_behind_a_pool_of_transactions(server: Postgres, tmp_path: Path) -> None:
    tool = shutil.which("pgbouncer")
    if tool is None:
        assert os.environ.get("CI") != "true", "no pgbouncer: apt-get install pgbouncer"
        pytest.skip("no pgbouncer on this machine: apt-get install pgbouncer")
    port = find_free_port()
    settings = server.directory / "pgbouncer.ini"
    server.directory.chmod(0o755)
    settings.write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port} user=test\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n"
        "max_client_conn = 200\ndefault_pool_size = 8\nunix_socket_dir =\n"
    )
    with subprocess.Popen([tool, "-q", str(settings)], user=server.user, stderr=subprocess.DEVNULL) as pool:
        try:
            with cluster_on(server, tmp_path, f"postgresql://test@127.0.0.1:{port}/postgres") as cluster:
                cluster.kill(0)
                cluster.start(0)
                cluster.wait_until_ready()
                cluster.wait_for_more_runs(16)
        finally:
            pool.terminate()
