"""The demo's stand-ins: an intake that refuses what Datadog would not take as meant, and the stage that holds them."""

import hashlib
import hmac
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Event
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import zstandard

from service.collectors.github_ci.deliveries import read_run
from service.config.clients import sync_http_client
from service.demo.datadog import SimulatedDatadog
from service.demo.intake import MAX_COMPRESSED, MAX_RAW, AcceptedPoint, Received, Reply, refusal
from service.demo.recording import deliver_runs, load_repositories
from service.demo.stage import stage
from tests.datadog import ScriptedDatadog

NOW = 1_760_000_000
SERIES, DISTRIBUTIONS = "/api/v2/series", "/api/v1/distribution_points"
GAUGE: dict[str, Any] = {"metric": "metta.a", "type": 3, "points": [{"timestamp": NOW, "value": 1.5}], "tags": ["a:b"]}
SAMPLES: dict[str, Any] = {"metric": "metta.d", "points": [[NOW, [1, 2.5]]], "tags": ["a:b"]}


@pytest.fixture
def intake() -> SimulatedDatadog:
    return SimulatedDatadog(now=lambda: float(NOW))


def post(intake: SimulatedDatadog, body: bytes, path: str = SERIES, encoding: str = "identity") -> Reply:
    headers = {"dd-api-key": "any", "content-type": "application/json", "content-encoding": encoding}
    return intake.reply(Received("POST", path, {}, headers, body))


def to_body(*series: dict[str, Any]) -> bytes:
    return json.dumps({"series": series}).encode()


def test_good_series_are_kept_but_for_points_out_of_the_time_window(intake: SimulatedDatadog) -> None:
    times = [NOW - 3601, NOW - 3600, NOW, NOW + 600, NOW + 601]
    count = {"metric": "metta.c", "type": 1, "interval": 60, "points": [{"timestamp": at, "value": 1} for at in times]}
    assert post(intake, to_body(GAUGE, count)) == Reply(202, {"errors": []})
    assert intake.points == [
        AcceptedPoint("metta.a", "gauge", ("a:b",), NOW, 1.5),
        *(AcceptedPoint("metta.c", "count", (), at, 1, 60) for at in times[1:4]),
    ]
    assert (intake.accepted, intake.dropped, intake.refused) == (4, 2, 0)


def test_bodies_are_bounded_before_and_after_compression(intake: SimulatedDatadog) -> None:
    full = to_body(GAUGE).ljust(MAX_RAW)
    for body, encoding, status in (
        (zlib.compress(full), "deflate", 202),
        (zlib.compress(full + b" "), "deflate", 413),
        (zstandard.compress(full + b" "), "zstd1", 413),
        (zstandard.compress(bytes(2**27)), "zstd1", 413),
        (full[:MAX_COMPRESSED], "identity", 202),
        (full[: MAX_COMPRESSED + 1], "identity", 413),
    ):
        assert post(intake, body, encoding=encoding).status == status


def bad_bodies() -> Iterator[tuple[str, bytes]]:
    """Path and body of what is not JSON of that shape, or what Datadog would not take as meant."""
    yield from ((SERIES, body) for body in (b"", b"[]", b"{}", b'{"series": []}'))
    yield from ((SERIES, to_body(GAUGE).replace(b"1.5", value)) for value in (b"1e999", b"NaN"))
    yield SERIES, to_body(GAUGE).replace(b"a:b", b"a:\xff")
    changes: list[dict[str, Any]] = [
        *({"metric": name} for name in ("", "9lives", "with space", "with-dash", "é", "m" * 201, "m\n")),
        *({"tags": tags} for tags in ("a:b", [""], ["1a:b"], ["a:"], ["a:b\nc"], ["a:" + "b" * 199])),
        *({"type": kind} for kind in (0, 4, 1, 2)),
        *({"points": points} for points in ([], [[NOW, 1]], [{"timestamp": NOW}], [{"timestamp": NOW, "value": "1"}])),
        *({"points": [{"timestamp": at, "value": 1}]} for at in (NOW + 0.5, str(NOW))),
        {"interval": -1},
        {"unknown": 1},
    ]
    yield from ((SERIES, to_body(GAUGE, GAUGE | change)) for change in changes)
    points: list[Any] = [[{"timestamp": NOW, "value": 1}], [[NOW, 1]], [[NOW, []]], [[NOW + 0.5, [1]]]]
    changes = [*({"points": each} for each in points), {"type": "gauge"}, {"interval": 60}]
    yield from ((DISTRIBUTIONS, to_body(SAMPLES | change)) for change in changes)


def test_what_datadog_would_not_take_as_meant_is_refused_with_the_reason(intake: SimulatedDatadog) -> None:
    for path, body in bad_bodies():
        assert post(intake, body, path) == refusal(400, intake.last_refusal), body
    assert intake.accepted == 0


def test_the_stage_is_up_while_it_is_held_and_leaves_nothing_behind() -> None:
    with stage() as held:
        github, intake = held.environ["GITHUB_API_URL"], held.environ["DD_URL"]
        # A proxy in the user's environment must not come between.
        with sync_http_client({"HTTP_PROXY": "http://127.0.0.1:9"}, base_url=github) as client:
            assert client.get("/repos/ionic-team/ionic-framework").status_code == 200
            keys = {"dd-api-key": held.environ["DD_API_KEY"], "dd-application-key": held.environ["DD_APP_KEY"]}
            assert client.get(f"{intake}/api/v1/dashboard", headers=keys).json() == {"dashboards": []}
    assert not held.config.parent.exists()
    for address in (github, intake):
        with pytest.raises(httpx.ConnectError):
            httpx.get(address, verify=False, trust_env=False)


def test_runs_end_in_turn_and_are_delivered_signed(server: ScriptedDatadog) -> None:
    """What is delivered is a delivery of GitHub's, and the simulated GitHub knows the run as well."""
    end, repository, conclusions = Mock(Event), load_repositories(datetime.now(UTC))[0], []
    end.wait.side_effect = (False, False, True)
    deliver_runs(repository, f"{server.url}/", "a-secret", end)
    for each in server.received:
        assert each.path == "/api/v1/webhooks/github"
        signature = hmac.new(b"a-secret", each.body, hashlib.sha256).hexdigest()
        assert each.headers["x-hub-signature-256"] == f"sha256={signature}"
        run = read_run(each.body)
        assert run
        known = repository.run(run.id, datetime.now(UTC))
        assert known
        assert json.loads(each.body)["workflow_run"] == repository.run_json(known, datetime.now(UTC))
        conclusions.append(run.conclusion)
    assert conclusions == ["success", "failure"]
