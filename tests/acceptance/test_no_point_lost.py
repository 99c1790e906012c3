"""The promise: a point once collected reaches Datadog or is accounted for, whatever dies in between."""

import resource
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

from service.domain.points import Fate
from tests.acceptance.load import add_load
from tests.acceptance.program import Place, place, wait_for

KILLS = 24


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as it:
        yield it


def stored(here: Place) -> dict[tuple[str, int, float], Fate]:
    """Every point that any run brought: metric, second, value (each its own)."""
    with sqlite3.connect(here.state_dir / "state.db") as connection:
        rows = connection.execute(
            "SELECT metric, at, value, fate FROM points JOIN series ON series.id = series WHERE metric LIKE 'acme.%'"
        ).fetchall()
    return {(metric, at, value): Fate(fate) for metric, at, value, fate in rows}


@pytest.mark.timeout(180)
def test_kills_at_any_instant_lose_no_point_and_double_no_distribution(here: Place) -> None:
    random = Random(9)
    add_load(here, schedule="@every 1s", gauges=300, distributions=100)
    here.config["store"] = {"keep_ended": 100_000}
    here.write_config()
    for _ in range(KILLS):
        with here.daemon() as daemon:
            time.sleep(random.choice((random.uniform(0, 0.15), random.uniform(0, 1.5))))  # the kill shall come anywhere
            daemon.process.kill()
    here.config["collectors"]["load"]["schedule"] = "0 0 1 1 *"
    here.write_config()
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        assert daemon.end() == 0

    points = stored(here)
    arrived = Counter(
        (point.metric, point.at, point.value) for point in here.intake.points if point.metric.startswith("acme.")
    )
    assert len(points) >= 400 * KILLS // 2
    assert (here.intake.refused, here.intake.dropped) == (0, 0)
    # Nothing arrives that no run brought, nothing that a run brought is missing, and nothing comes a third time.
    assert arrived.keys() <= points.keys()
    lost = {point: fate for point, fate in points.items() if arrived[point] == 0}
    # Of two runs in one second (a missed slot follows at once) only the later one's gauges are sent.
    gauges = Counter(at for metric, at, _ in points if metric == "acme.load.gauge")
    assert all(
        fate is Fate.UNCERTAIN if metric == "acme.load.distribution" else gauges[at] > 300
        for (metric, at, _), fate in lost.items()
    )
    doubled = {point for point, times in arrived.items() if times > 1}
    assert all(point[0] == "acme.load.gauge" and arrived[point] <= 1 + KILLS for point in doubled)
    assert all(fate in (Fate.DELIVERED, Fate.UNCERTAIN) for fate in points.values())


def test_thirty_thousand_samples_with_long_tags_are_all_delivered(here: Place) -> None:
    """No request is refused for its size, and the probes are answered meanwhile."""
    add_load(here, schedule="0 0 1 1 *", gauges=30_000, long_tags=8)
    with here.daemon() as daemon:
        probe = httpx.Client(base_url=daemon.http.base_url, timeout=5, trust_env=False)

        def ended() -> bool:
            assert probe.get("/livez").status_code == 200
            return bool(daemon.quiet_runs())

        wait_for(ended, daemon)
        (run,) = daemon.get("/api/v1/runs")["runs"]
        probe.close()
        assert run["delivery"]["delivered"] == run["samples"] >= 30_000
        assert here.intake.accepted >= 30_000
        assert (here.intake.refused, here.intake.dropped) == (0, 0)


def test_a_daemon_whose_disk_is_full_goes_on_from_memory_and_says_so(here: Place) -> None:
    add_load(here, schedule="0 0 1 1 *", gauges=2_000, distributions=100, long_tags=2)
    with here.daemon() as daemon:
        daemon.wait_until_quiet()
        first = here.intake.accepted
        soft, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (65_536, hard))
        started = daemon.http.post("/api/v1/collectors/load/runs?wait=10").raise_for_status().json()
        assert started["outcome"] == "Complete"
        wait_for(lambda: here.intake.accepted >= first + 2_100, daemon)
        answer = daemon.http.get("/readyz")
        (store,) = [check for check in answer.json()["checks"] if check["name"] == "store"]
        assert (answer.status_code, store["status"]) == (503, "fail")
        assert "in memory meanwhile: 1 runs" in store["detail"]
        assert daemon.http.get("/livez").status_code == 200
        assert daemon.http.get("/").status_code == 200
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        wait_for(lambda: daemon.http.get("/readyz").status_code == 200, daemon)
        run = daemon.get(f"/api/v1/runs/{started['id']}")
        assert run["delivery"]["delivered"] == run["samples"] >= 2_100
        assert daemon.end() == 0
    brought = Counter(stored(here).keys())
    arrived = Counter((each.metric, each.at, each.value) for each in here.intake.points if each.metric[:4] == "acme")
    assert arrived == brought
    messages = [record["message"] for record in daemon.records]
    assert messages.count("the store is lost: going on from memory") == 1
    assert messages.count("the store works again") == 1
